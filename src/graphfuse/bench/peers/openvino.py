"""OpenVINO's CPU plugin for one stream of requests, computing in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphfuse.bench.peers import Ready, Subject

PACKAGES = ("openvino",)
VIES = True
TOLERANCE = 1e-3


def version() -> str:
    import openvino

    return str(openvino.__version__).split("-")[0]


def prepare(subject: Subject) -> Ready:
    """The model compiled for the shapes of the inputs."""
    return prepare_with(subject, {"INFERENCE_PRECISION_HINT": "f32"})


def prepare_with(subject: Subject, config: dict[str, Any]) -> Ready:
    """The model compiled with further settings of the plugin."""
    import openvino

    from graphfuse.bench.peers import Ready

    model = openvino.Core().read_model(str(subject.model))
    model.reshape({name: list(array.shape) for name, array in subject.inputs.items()})
    latency = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": subject.threads}
    compiled = openvino.Core().compile_model(model, "CPU", {**latency, **config})
    request = compiled.create_infer_request()
    inputs = dict(subject.inputs)
    ports = {name: compiled.output(name) for name in subject.outputs}

    def call() -> Any:
        return request.infer(inputs, share_inputs=True, share_outputs=True)

    return Ready(call, lambda found: {name: found[port].copy() for name, port in ports.items()})
