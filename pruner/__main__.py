from pruner.cli import main

main()
