"""Files that last: written whole, by one writer a folder, sealed; and which code wrote them."""
