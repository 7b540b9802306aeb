"""Capture: a PyTorch model becomes a graph of standard layers and plain operations.

`torch.export` runs the model once with its shapes, so that flags, loops, `isinstance` and sizes are
decided and only operations are left, whichever class called them. Here what has weights becomes a
standard module again, under the path at which the model keeps them: a convolution that a user's own
forward computes is an `nn.Conv2d`, and can be cut and trained like any other. The number of images
stays open.

Deviations from the model as it is written:
1. It is captured as it is in evaluation: drop-path is gone, heads for training too. Dropout and
   BatchNorm know the difference still.
2. Weights that are computed from others (weight standardisation, parametrizations) are computed
   once, and are weights of their own from then on.
3. A change in place becomes an operation with a result.
4. A layer that is called again has another path there, with `AGAIN` and a number behind its own: it
   is the same module.
"""

from __future__ import annotations

import copy
import inspect
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import TracebackType

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind, OutputKind
from torch.nn.utils import prune
from torch.utils._pytree import tree_leaves, tree_unflatten

from pruner import TraceError

BATCH = 2  # images of the example
AGAIN = "__again"  # between a layer's path and the number of its call
ALIKE = 1e-3  # of the largest output: one image alone, and in a batch
AS_IT_IS = {  # nothing but where or how a tensor lies
    "alias", "clone", "contiguous", "detach", "lift_fresh_copy", "to", "_to_copy", "type_as",
}  # fmt: skip
_VIEWS = {
    "view", "reshape", "flatten", "unflatten", "slice", "select", "narrow", "permute", "transpose",
    "squeeze", "unsqueeze", "chunk", "split", "split_with_sizes", "unbind", "expand", "alias",
    "getitem", "view_as", "expand_as", "contiguous", "detach", "to",
}  # fmt: skip
_DROPOUTS = {"dropout": nn.Dropout, "feature_dropout": nn.Dropout2d, "alpha_dropout": nn.Dropout}
_REMOVES = {  # hooks of PyTorch's that compute a weight before every forward
    "WeightNorm": "torch.nn.utils.remove_weight_norm(module)",
    "SpectralNorm": "torch.nn.utils.remove_spectral_norm(module)",
}


def capture(model: nn.Module, input_shape: tuple[int, int, int]) -> fx.GraphModule:
    """The model's operations for images of (channels, height, width); raises TraceError.

    Modules and weights are the model's own where that has standard ones. Every node knows the
    `shape` of its output for BATCH images in its meta, the `within` path of the module that
    computes it, and the `line` of the user's file.
    """
    _refuse_what_computes_weights(model)
    training = model.training
    model.eval()
    try:
        device = next(model.parameters(), torch.empty(0)).device  # `meta` needs no weights
        example = torch.zeros(BATCH, *input_shape, device=device)
        images = torch.empty_like(example).normal_(generator=_generator(device))
        several, one = (_answers(model, batch) for batch in (images, images[:1]))
        module = _Rewritten(model, _exported(model, example)).module()
        # A difference may be of roundings that grow on their way, as they do without training.
        if _mixes_images(several, one) and _mixes_images_in_double(model, images):
            raise TraceError(
                "the model answers otherwise for an image alone than for the same one in a batch: "
                "forward mixes the images, as a mean over the first dimension or a BatchNorm "
                "without running statistics does"
            )
        return module
    finally:
        model.train(training)


def drop_paths(model: nn.Module) -> list[str]:
    """The paths of modules that drop whole branches at random in training (arXiv 1603.09382)."""
    named = ("DropPath", "StochasticDepth")
    return [path for path, module in model.named_modules() if type(module).__name__ in named]


def first_call(path: str) -> str:
    """The path of a layer itself, of that of any of its calls."""
    return path.partition(AGAIN)[0]


def name_of(node: fx.Node) -> str:
    """What a plain operation computes: `relu` of `aten.relu_.default`."""
    if isinstance(node.target, str):
        return node.target
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return getattr(node.target, "__name__", str(node.target))
    return schema.name.split("::")[-1]


def where(node: fx.Node) -> str:
    """In which module and at which line an operation is called, in words."""
    within, line = node.meta.get("within"), node.meta.get("line")
    if within in (node.target, node.meta.get("layer")):  # as the layer is called
        within = None
    return (f" in {within}" if within else "") + (f" ({line})" if line else "")


def _refuse_what_computes_weights(model: nn.Module) -> None:
    for path, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            kind = type(hook).__name__
            if isinstance(hook, prune.BasePruningMethod):
                found, mend = "a pruning mask", "torch.nn.utils.prune.remove(module, name)"
            elif kind in _REMOVES:
                found, mend = f"{kind}, which computes its weight anew each time", _REMOVES[kind]
            else:
                continue
            raise TraceError(
                f"layer {path or 'of the model'} has {found}. Make the weight it has now its own "
                f"before you prune: {mend}"
            )


def _answers(model: nn.Module, images: Tensor) -> list:
    """Everything a model answers; raises TraceError where it fails."""
    try:
        with torch.no_grad():
            return tree_leaves(model(images))
    except Exception as error:  # whatever the user's modules raise on a wrong shape
        shape = "×".join(map(str, images.shape[1:]))
        raise TraceError(
            f"cannot run the model on one {shape} input: {_first_line(error)}. It must accept "
            "images of (channels, height, width) as the data set or --input gives them"
        ) from error


def _mixes_images_in_double(model: nn.Module, images: Tensor) -> bool:
    precise, images = copy.deepcopy(model).double(), images.double()
    try:
        return _mixes_images(*(_answers(precise, batch) for batch in (images, images[:1])))
    except TraceError:  # it computes in single precision only
        return True


def _mixes_images(several: list, one: list) -> bool:
    """Whether a model answers otherwise for one image of a batch; raises TraceError for shapes."""
    for whole, alone in zip(several, one, strict=True):
        if not isinstance(whole, Tensor) or whole.device.type == "meta":
            continue
        if whole.shape[1:] != alone.shape[1:] or len(whole) != BATCH * len(alone):
            raise TraceError(
                f"the model answers {tuple(whole.shape)} for {BATCH} images and "
                f"{tuple(alone.shape)} for one: the first dimension of every output must be the "
                "images'"
            )
        difference = (whole[: len(alone)] - alone).abs().max() if alone.numel() else 0
        if not difference <= ALIKE * whole.abs().max():
            return True
    return False


def _generator(device: torch.device) -> torch.Generator | None:
    return None if device.type == "meta" else torch.Generator(device).manual_seed(0)


def _exported(model: nn.Module, example: Tensor) -> ExportedProgram:
    try:
        with _silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return export(model, (example,), dynamic_shapes=({0: Dim.AUTO},), strict=False)
    except Exception as error:  # whatever the user's forward raises when run on symbols
        raise TraceError(
            f"cannot trace {type(model).__name__}: {_told(model, error)}. What it computes must "
            "depend on the shape of the images alone, not on their values"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """PyTorch logs the whole graph where it fails."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _told(model: nn.Module, error: Exception) -> str:
    """Where in the user's code something went wrong, and what."""
    paths = {module: path for path, module in model.named_modules()}
    own, place = "forward", ""
    trace: TracebackType | None = error.__traceback__
    inside = os.path.dirname(torch.__file__)
    while trace is not None:
        code, variables = trace.tb_frame.f_code, trace.tb_frame.f_locals
        module = variables.get("self")
        if isinstance(module, nn.Module) and paths.get(module):
            own = paths[module]
        if variables and not code.co_filename.startswith((inside, "<")):
            at = f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}"
            place = at if os.path.dirname(__file__) not in code.co_filename else place
        trace = trace.tb_next
    at = f" ({place})" if place else ""
    return f"in {own}{at}, {type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error.__cause__ or error).splitlines()), "").strip().rstrip(".")


class _Rewritten:
    """An exported program's graph, written anew with modules; one pass in execution order."""

    def __init__(self, model: nn.Module, program: ExportedProgram) -> None:
        self.model, self.program = model, program
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module | Tensor] = {}
        self.calls: dict[str, int] = {}  # of what is called more than once
        self.now: dict[fx.Node, fx.Node] = {}  # the program's node → its value so far, here
        self.weights: dict[fx.Node, str] = {}  # placeholders and what they are called in the model
        self.computed: set[fx.Node] = set()  # from weights alone
        self.values: dict[fx.Node, Tensor] = {}
        self.order = {node: i for i, node in enumerate(program.graph.nodes)}

    def module(self) -> fx.GraphModule:
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._output(node)
        self._leave_out_what_no_output_needs()
        used = {str(n.target) for n in self.graph.nodes if n.op in ("call_module", "get_attr")}
        kept = {path: part for path, part in self.modules.items() if path in used}
        for part in kept.values():
            if isinstance(part, nn.Module):
                part.train(self.model.training)
        return fx.GraphModule(kept, self.graph, type(self.model).__name__)

    def _leave_out_what_no_output_needs(self) -> None:
        for node in reversed(self.graph.nodes):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.erase_node(node)

    # -- what flows in and out -----------------------------------------------------------------

    def _placeholder(self, node: fx.Node) -> None:
        for spec in self.program.graph_signature.input_specs:
            if getattr(spec.arg, "name", None) != node.name:
                continue
            if spec.kind is InputKind.USER_INPUT:
                self._image(node)
            elif spec.target is not None:
                self.weights[node] = spec.target
                self.computed.add(node)

    def _image(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            if isinstance(value.shape[0], int):
                raise TraceError(
                    f"forward works for {BATCH} images only: it writes their number into a shape. "
                    "Take x.shape[0], or -1 in a reshape"
                )
            self.now[node] = self._noted(self.graph.placeholder(node.name), node)
        elif node.users:
            raise TraceError(
                f"the model takes a second input, {node.name}; only one is supported. Wrap it in "
                "a module whose forward takes the images alone"
            )

    def _output(self, node: fx.Node) -> None:
        specs = self.program.graph_signature.output_specs
        given = [
            value
            for spec, value in zip(specs, node.args[0], strict=True)  # type: ignore[arg-type]
            if spec.kind is OutputKind.USER_OUTPUT
        ]
        values = [self._given(value) for value in given]
        whole = self.program.call_spec.out_spec
        answer = tree_unflatten(values, whole) if whole is not None else values[0]
        self.graph.output(answer)

    def _given(self, value):
        """An argument in the new graph."""
        if isinstance(value, fx.Node):
            if value in self.computed:
                return self._constant(value)
            return self.now[value]
        if isinstance(value, list | tuple):
            return type(value)(self._given(part) for part in value)
        return value

    def _constant(self, node: fx.Node) -> fx.Node:
        """A tensor that does not depend on the images: a weight under its name, or computed."""
        if node not in self.now:
            path = self.weights.get(node, f"constant_{node.name}")
            tensor = self._value(node)
            self.modules[path] = tensor
            self.now[node] = self._noted(self.graph.get_attr(path), node)
        return self.now[node]

    def _value(self, node: fx.Node) -> Tensor:
        """The tensor itself; one that is computed from weights becomes a weight of its own."""
        if node not in self.values:
            if node in self.weights:
                self.values[node] = self._named(self.weights[node])
            else:
                given = [self._evaluated(argument) for argument in node.args]
                named = {name: self._evaluated(value) for name, value in node.kwargs.items()}
                with torch.no_grad():
                    made = _function(node)(*given, **named)
                of = [self._value(source) for source in node.all_input_nodes]
                learns = any(isinstance(one, Tensor) and one.requires_grad for one in of)
                if learns and isinstance(made, Tensor) and made.is_floating_point():
                    made = nn.Parameter(made.detach().clone())  # a view could not be copied
                self.values[node] = made
        return self.values[node]

    def _evaluated(self, value):
        if isinstance(value, fx.Node):
            return self._value(value)
        if isinstance(value, list | tuple):
            return type(value)(self._evaluated(part) for part in value)
        return value

    def _named(self, path: str) -> Tensor:
        constants = self.program.constants
        if path in self.program.state_dict:
            try:
                return self.model.get_parameter(path)
            except AttributeError:
                pass
            try:
                return self.model.get_buffer(path)
            except AttributeError:
                return self.program.state_dict[path]
        if path in constants:
            return constants[path]
        return self.model.get_buffer(path)

    def _noted(self, made: fx.Node, node: fx.Node) -> fx.Node:
        """With what is known about an operation."""
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            made.meta["shape"] = _sizes(value)
        elif isinstance(value, list | tuple):
            made.meta["shapes"] = [_sizes(one) for one in value if isinstance(one, Tensor)]
        stack = [
            path for path, _ in node.meta.get("nn_module_stack", {}).values() if "." not in path[:1]
        ]
        made.meta["within"] = stack[-1] if stack and not stack[-1].startswith("_empty") else ""
        made.meta["line"] = _user_line(node.meta.get("stack_trace") or "")
        made.meta["layer"] = self._standing_for(node)
        return made

    def _standing_for(self, node: fx.Node) -> str | None:
        """The path of a module of PyTorch's without weights, which names what it computes."""
        stack = [*node.meta.get("nn_module_stack", {}).values()]
        if not stack or not stack[-1][0]:
            return None
        path, kind = stack[-1]
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        known = re.match(r"torch\.nn\.modules\.(?!container)", kind)
        return path if known else None

    # -- one operation -------------------------------------------------------------------------

    def _call(self, node: fx.Node) -> None:
        name = name_of(node)
        read = [source for source in node.all_input_nodes if source in self.order]
        if read and all(source in self.computed for source in read):
            self.computed.add(node)
            return
        if name.startswith("_assert") or name in ("sym_constrain_range_for_size",):
            return
        if name.endswith("_") and not name.endswith("__"):
            self._in_place(node, name.rstrip("_"))
            return
        self._emit(node, name)

    def _emit(self, node: fx.Node, name: str) -> None:
        if name in AS_IT_IS and self._keeps_its_numbers(node):
            self.now[node] = self._given(node.args[0])
        elif name in _WEIGHTED:
            _WEIGHTED[name](self, node)
        else:
            arguments = self._given(node.args)
            named = {key: self._given(value) for key, value in node.kwargs.items()}
            self._function(node, node.target, arguments, named, node.name)

    def _keeps_its_numbers(self, node: fx.Node) -> bool:
        source, value = node.args[0], node.meta.get("val")
        before = source.meta.get("val") if isinstance(source, fx.Node) else None
        if not isinstance(value, Tensor) or not isinstance(before, Tensor):
            return False
        return value.dtype == before.dtype and value.device == before.device

    def _function(self, node: fx.Node, target, arguments, named: dict, name: str) -> None:
        made = self.graph.create_node("call_function", target, tuple(arguments), named, name)
        self.now[node] = self._noted(made, node)

    def _in_place(self, node: fx.Node, name: str) -> None:
        """An operation that changes its first argument: whoever reads that later reads the result.

        Refused where something else that lies in the same memory is read later.
        """
        changed = node.args[0]
        assert isinstance(changed, fx.Node)
        if self._is_seen_elsewhere(changed, node):
            raise TraceError(
                f"layer {node.name}{where(self._noted_like(node))}: forward changes a part of a "
                "tensor in place that is read later as well, which cannot be traced. Compute a "
                "new tensor instead"
            )
        if name in _WEIGHTED:
            _WEIGHTED[name](self, node)
        else:
            packet = getattr(torch.ops.aten, name)
            overload = getattr(packet, node.target._overloadname)  # type: ignore[union-attr]
            named = {key: self._given(value) for key, value in node.kwargs.items()}
            self._function(node, overload, self._given(node.args), named, name)
        self.now[changed] = self.now[node]

    def _noted_like(self, node: fx.Node) -> fx.Node:
        return self._noted(fx.Graph().placeholder(node.name), node)

    def _is_seen_elsewhere(self, changed: fx.Node, by: fx.Node) -> bool:
        after = self.order[by]

        def read_later(node: fx.Node) -> bool:
            return any(
                self.order[user] > after or (_is_view(user) and user is not by and read_later(user))
                for user in node.users
                if user is not by
            )

        lies_in = changed
        while _is_view(lies_in) and isinstance(lies_in.args[0], fx.Node):
            lies_in = lies_in.args[0]
            if any(self.order[user] > after for user in lies_in.users):
                return True
        return any(_is_view(user) and read_later(user) for user in changed.users if user is not by)

    # -- what has weights ----------------------------------------------------------------------

    def _place(self, node: fx.Node, weight: fx.Node) -> str:
        """Where a layer's weights are kept: the path before `.weight`."""
        if weight in self.weights:
            path, _, last = self.weights[weight].rpartition(".")
            return path if last == "weight" and path else self.weights[weight]
        return self._named_after(node)  # computed: of the module that does

    def _call_module(
        self, node: fx.Node, path: str, source, make: Callable[[], nn.Module], tensors: dict
    ) -> None:
        """One call of the standard module with these tensors; `make` builds an empty one."""
        given = {
            name: self._value(value) if isinstance(value, fx.Node) else value
            for name, value in tensors.items()
        }
        made = make()
        if path in self.modules and not _computes_alike(self.modules[path], made, given):
            raise TraceError(
                f"layer {path}: its weights are used in two ways; what is cut must be used alike"
            )
        if path in self.modules and given:
            self.calls[path] = self.calls.get(path, 1) + 1
            again = f"{path}{AGAIN}{self.calls[path]}"
            self.modules[again], path = self.modules[path], again
        if path not in self.modules:
            known = dict(self.model.named_modules()).get(path)
            if known is None or not _computes_alike(known, made, given):
                for name, value in given.items():
                    _set(made, name, value)
                counts = getattr(known, "num_batches_tracked", None)
                if isinstance(made, nn.modules.batchnorm._BatchNorm) and counts is not None:
                    made.num_batches_tracked = counts
                known = made
            self.modules[path] = known
        call = self.graph.call_module(path, (self._given(source),))
        call.meta |= self._noted(call, node).meta
        self.now[node] = call

    def _conv(self, node: fx.Node) -> None:
        source, weight, bias, stride, padding, dilation, groups = arguments(
            node, ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
            (None, None, None, 1, 0, 1, 1),
        )  # fmt: skip
        tensor = self._weight(node, weight)
        stride, dilation = pair(stride), pair(dilation)
        kernel = pair(tensor.shape[2:])
        if isinstance(padding, str):
            padding, source = self._same(node, source, padding, kernel, dilation)
        make = lambda: nn.Conv2d(  # noqa: E731
            tensor.shape[1] * groups, tensor.shape[0], kernel, stride, pair(padding), dilation,
            groups, bias is not None, device="meta",
        )  # fmt: skip
        tensors = {"weight": weight, "bias": bias}
        self._call_module(node, self._place(node, weight), source, make, tensors)

    def _same(self, node: fx.Node, source, padding: str, kernel, dilation):
        """The numbers of padding="same", and what is then read: uneven ones are written out."""
        if padding == "valid":
            return (0, 0), source
        whole = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if all(size % 2 == 0 for size in whole):
            return tuple(size // 2 for size in whole), source
        (up, down), (left, right) = ((size // 2, size - size // 2) for size in whole)
        pads = [left, right, up, down]
        made = self.graph.call_function(
            torch.ops.aten.constant_pad_nd.default, (self._given(source), pads)
        )
        made.meta |= self._noted(made, node).meta
        shape = [*_sizes(source.meta["val"])]
        made.meta["shape"] = (*shape[:2], shape[2] + up + down, shape[3] + left + right)
        made.meta["layer"] = None
        self.now[made] = made
        return (0, 0), made

    def _weight(self, node: fx.Node, weight) -> Tensor:
        if not isinstance(weight, fx.Node) or weight not in self.computed:
            raise TraceError(
                f"layer {node.name}{where(self._noted_like(node))}: its weights depend on the "
                "images, so they cannot be pruned"
            )
        return self._value(weight)

    def _conv_transpose(self, node: fx.Node) -> None:
        names = (
            "input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation",
        )  # fmt: skip
        source, weight, bias, stride, padding, beyond, groups, dilation = arguments(
            node, names, (None, None, None, 1, 0, 0, 1, 1)
        )
        tensor = self._weight(node, weight)
        make = lambda: nn.ConvTranspose2d(  # noqa: E731
            tensor.shape[0], tensor.shape[1] * groups, pair(tensor.shape[2:]), pair(stride),
            pair(padding), pair(beyond), groups, bias is not None, pair(dilation), device="meta",
        )  # fmt: skip
        tensors = {"weight": weight, "bias": bias}
        self._call_module(node, self._place(node, weight), source, make, tensors)

    def _prelu(self, node: fx.Node) -> None:
        source, weight = arguments(node, ("self", "weight"), (None, None))
        tensor = self._weight(node, weight)
        make = lambda: nn.PReLU(tensor.numel(), device="meta")  # noqa: E731
        self._call_module(node, self._place(node, weight), source, make, {"weight": weight})

    def _layer_norm(self, node: fx.Node) -> None:
        names = ("input", "normalized_shape", "weight", "bias", "eps")
        source, shape, weight, bias, eps = arguments(node, names, (None, None, None, None, 1e-5))
        make = lambda: nn.LayerNorm(  # noqa: E731
            tuple(shape), eps, weight is not None, bias is not None, device="meta"
        )
        self._norm(node, source, make, weight, bias)

    def _group_norm(self, node: fx.Node) -> None:
        names = ("input", "num_groups", "weight", "bias", "eps")
        source, groups, weight, bias, eps = arguments(node, names, (None, None, None, None, 1e-5))
        channels = _sizes(source.meta["val"])[1]
        make = lambda: nn.GroupNorm(  # noqa: E731
            groups, channels, eps, weight is not None, device="meta"
        )
        self._norm(node, source, make, weight, bias)

    def _norm(self, node: fx.Node, source, make, weight, bias) -> None:
        path = self._named_after(node) if weight is None else self._place(node, weight)
        self._call_module(node, path, source, make, {"weight": weight, "bias": bias})

    def _linear(self, node: fx.Node) -> None:
        source, weight, bias = arguments(node, ("input", "weight", "bias"), (None, None, None))
        tensor = self._weight(node, weight)
        make = lambda: nn.Linear(  # noqa: E731
            tensor.shape[1], tensor.shape[0], bias is not None, device="meta"
        )
        tensors = {"weight": weight, "bias": bias}
        self._call_module(node, self._place(node, weight), source, make, tensors)

    def _batch_norm(self, node: fx.Node) -> None:
        names = (
            "input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps",
        )  # fmt: skip
        source, weight, bias, mean, variance, training, momentum, eps = arguments(
            node, names, (None, None, None, None, None, False, 0.1, 1e-5)
        )
        if training or mean is None:
            raise TraceError(
                f"layer {self._named_after(node)}: BatchNorm without running statistics answers "
                "otherwise for every batch. Give it track_running_stats=True and train it"
            )
        before = _sizes(source.meta["val"])
        kind = nn.BatchNorm2d if len(before) == 4 else nn.BatchNorm1d
        make = lambda: kind(  # noqa: E731
            before[1], eps, momentum, affine=weight is not None, device="meta"
        )
        tensors = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
        path = self._place(node, weight) if weight is not None else self._named_after(node)
        self._call_module(node, path, source, make, tensors)

    def _named_after(self, node: fx.Node) -> str:
        stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
        return (stack[-1] if stack else "") or node.name

    def _dropout(self, node: fx.Node) -> None:
        name = name_of(node).rstrip("_")
        source, share, _ = arguments(node, ("input", "p", "train"), (None, 0.5, False))
        path = self._standing_for(node) or node.name
        make = lambda: _DROPOUTS[name](share)  # noqa: E731
        self._call_module(node, path, source, make, {})


_WEIGHTED: dict[str, Callable[[_Rewritten, fx.Node], None]] = {
    "conv2d": _Rewritten._conv,
    "conv_transpose2d": _Rewritten._conv_transpose,
    "prelu": _Rewritten._prelu,
    "layer_norm": _Rewritten._layer_norm,
    "group_norm": _Rewritten._group_norm,
    "linear": _Rewritten._linear,
    "batch_norm": _Rewritten._batch_norm,
    **dict.fromkeys(_DROPOUTS, _Rewritten._dropout),
}


def _function(node: fx.Node) -> Callable[..., Tensor]:
    assert callable(node.target)
    return node.target


def _is_view(node: fx.Node) -> bool:
    return node.op == "call_function" and name_of(node) in _VIEWS


def _computes_alike(known: object, made: nn.Module, tensors: dict) -> bool:
    """Whether a module is a standard one with these options, which holds these very tensors."""
    if type(known) is not type(made) or known.extra_repr() != made.extra_repr():
        return False
    if known._forward_hooks or known._forward_pre_hooks:
        return False
    return all(getattr(known, name, None) is value for name, value in tensors.items())


def _set(module: nn.Module, name: str, value: Tensor | None) -> None:
    if value is None:
        return
    if name in module._buffers:
        module._buffers[name] = value
    else:
        parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach())
        setattr(module, name, parameter)


def arguments(node: fx.Node, names: tuple[str, ...], defaults: tuple) -> tuple:
    """An operation's arguments in order, given by place or by name."""
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return tuple(given.get(name, value) for name, value in zip(names, defaults, strict=True))


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A number for height and width, or one for each."""
    if isinstance(value, int):
        return value, value
    first, second = (*value, *value)[:2]
    return first, second


def _sizes(value: Tensor) -> tuple[int, ...]:
    """A shape whose open dimensions are those of the example."""
    return tuple(size if isinstance(size, int) else int(size.node.hint) for size in value.shape)


def _user_line(stack: str) -> str | None:
    """FILE:LINE of the last frame outside PyTorch."""
    inside = os.path.dirname(inspect.getfile(torch))
    found = None
    for file, line in re.findall(r'File "([^"]+)", line (\d+)', stack):
        if not file.startswith((inside, "<")):
            found = f"{os.path.basename(file)}:{line}"
    return found
