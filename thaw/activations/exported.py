"""A prefix as a file in ONNX: cut from its network, which is exported once, or exported by itself.

An export takes 5 to 15 s, nearly all of it in following the network's code; that does not depend on its weights. So the
whole network is exported once, its weights left out and every place that a cut may give among its outputs
(`networks.cut.with_places`). A prefix is a part of that graph with its weights put in, which takes less than a second.
A prefix without such a network, or whose whole network cannot be exported, is exported by itself.
"""

import gc
import logging
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thaw.errors import ArtifactError, BackboneError, RunError, ThawError, first_line, is_of_the_machine
from thaw.networks.cut import CutPrefix, Origin, sha256_of_tensor, with_places
from thaw.networks.onnx import runtime
from thaw.pipeline import artifacts, scratch
from thaw.pipeline.machine import process_context

_PREFIX, _NETWORK = "prefix.onnx", "network.onnx"
_EXPORT_LIMIT_S = 600


def prefix_file(prefix: nn.Module, sample: Tensor, *, key: str, made_by: list[str]) -> Path:
    """Return the ONNX file of a prefix from the scratch folder, where it is made if it is not there whole.

    `key` names the prefix there; `made_by` are the versions of code and libraries that make it. The file depends on
    nothing else that is in the folder. Raises: BackboneError if the prefix cannot be exported, RunError if the machine
    did not let it.
    """
    images = sample[:2].contiguous()

    def write(path: Path) -> None:
        origin = prefix.origin if isinstance(prefix, CutPrefix) else None
        if origin is not None:
            try:
                return _in_child(_cut_here, origin, _network_file(origin, images, made_by), path)
            except BackboneError:  # its whole cannot be exported: what is above the cut may be to blame
                pass
        return _in_child(_export_here, prefix, images, path)

    return _kept(artifacts.digest([key, made_by]), _PREFIX, write)


def _network_file(origin: Origin, images: Tensor, made_by: list[str]) -> Path:
    """Return the ONNX file of a whole network, whose weights are inputs beside the images."""
    network = origin.network
    state = network.state_dict()
    others = {name: value for name, value in network.named_buffers() if name not in state}
    key = artifacts.digest(
        [
            made_by,
            [origin.spec, origin.trace, repr(network), [block.paths for block in origin.blocks]],
            [origin.taps, origin.pool, images.shape[1:]],
            {name: [str(value.dtype), *value.shape] for name, value in state.items()},
            {name: sha256_of_tensor(value) for name, value in others.items()},
        ]
    )
    return _kept(key, _NETWORK, lambda path: _in_child(_export_network_here, origin, images, path))


def _kept(key: str, name: str, write: Callable[[Path], None]) -> Path:
    folder = scratch.folder() / "engines" / key
    with artifacts.one_at_a_time(folder):
        try:
            artifacts.verify(folder)
        except ArtifactError:
            with artifacts.new_folder(folder) as partial:
                write(partial / name)
        folder.touch()  # the time of last use decides when it is forgotten
    return folder / name


def _in_child(make: Callable[..., None], *given: Any) -> None:
    """Make a file in a child process: the exporter leaves hundreds of MiB behind in the one it runs in.

    Raises: BackboneError with the exporter's reason, RunError where the reason is the machine's, so that it may go
    through the next time.
    """
    context = process_context()
    answers, answer = context.Pipe(duplex=False)
    child = context.Process(target=_make_here, args=(make, given, answer), daemon=True)
    child.start()
    answer.close()
    kind: type[ThawError] | None = RunError
    try:
        kind, reason = answers.recv() if answers.poll(_EXPORT_LIMIT_S) else (kind, f"no answer in {_EXPORT_LIMIT_S} s")
    except EOFError:
        reason = "the exporter was killed"
    child.kill()
    child.join()
    if kind is not None:
        raise kind(reason)


def _make_here(make: Callable[..., None], given: tuple[Any, ...], answer: Connection) -> None:
    # The parent's threads did not come along. A session of its that is garbage by now would wait for its own when
    # it is collected: nothing that came along is.
    gc.freeze()
    torch.set_num_threads(1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(*given)
    except Exception as error:  # noqa: BLE001, it raises what an operator it does not know makes it raise
        answer.send((RunError if is_of_the_machine(error) else BackboneError, first_line(error)))
    else:
        answer.send((None, ""))


def _export_here(prefix: nn.Module, images: Tensor, path: Path) -> None:
    """Write a prefix as ONNX. Tensors that are too large for one file lie beside it."""
    _save(_program(prefix, images), prefix, path)


def _export_network_here(origin: Origin, images: Tensor, path: Path) -> None:
    """Write a whole network with its places as outputs and its weights as inputs, as the exporter wrote it down."""
    network, places = with_places(origin, images)
    program = _program(network, images, output_names=places, optimize=False)
    graph = program.model.graph
    for name in origin.network.state_dict():
        if name in graph.initializers:
            value = graph.initializers.pop(name)
            value.const_value = None
            graph.inputs.append(value)
    program.save(str(path))


def _cut_here(origin: Origin, network: Path, path: Path) -> None:
    """Write the part of a network's file that gives the places of a prefix, with the weights of its network."""
    from onnxscript import ir, optimizer

    model = ir.load(network)
    graph = model.graph
    places = {value.name: value for value in graph.outputs}
    graph.outputs[:] = [places[name] for name in origin.places]
    optimizer.remove_unused_nodes(model)
    state = origin.network.state_dict()
    for value in graph.inputs[1:]:
        graph.inputs.remove(value)
        if value.uses() or value in graph.outputs:
            value.const_value = ir.tensor(state[str(value.name)].cpu().contiguous().numpy(), name=value.name)
            graph.register_initializer(value)
    program = torch.onnx.ONNXProgram(model, None)
    program.optimize()
    _save(program, origin.network, path)


def _program(module: nn.Module, images: Tensor, **options: Any) -> Any:
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    return torch.onnx.export(module, (images,), dynamo=True, dynamic_shapes=dynamic, verbose=False, **options)


def _save(program: Any, network: nn.Module, path: Path) -> None:
    size = sum(value.nbytes for value in network.state_dict().values())
    program.save(str(path), external_data=size > runtime.LARGEST_BYTES)
