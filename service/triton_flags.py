"""What becomes of each flag of Triton's server: the one table that the command line and the documentation read."""

from collections.abc import Mapping
from dataclasses import dataclass

from enginehouse.config_fields import Standing


@dataclass(slots=True, frozen=True)
class Flag:
    """What becomes of one flag.

    Attributes:
        standing: honoured does what it does in Triton; emulated is accepted, and the note says what happens instead;
            refused keeps the server from starting, unless the value is one of `harmless`.
        note: what a reader of the table has to know; of a refused flag, why or what to do instead.
        harmless: values that ask for what happens anyway.
        takes_value: it is followed by one.
    """

    standing: Standing
    note: str = ""
    harmless: tuple[str, ...] = ()
    takes_value: bool = True


TRUE, FALSE = ("true", "on", "1"), ("false", "off", "0")
_YES = Flag("honoured")
_ALWAYS_ON = Flag("refused", "always there: bind its address to the loopback, or close its port", TRUE)
_THREADS = Flag("emulated", "one event loop serves all connections; a number of threads means nothing to it")
_POOL = Flag("emulated", "memory is taken as it is needed; there is no pool")
_TLS = Flag("refused", "no TLS yet: let a proxy in front speak it")
_LOCKED = Flag("refused", "no keys yet: let a proxy in front ask for them")
_KEEPALIVE = Flag("refused", "gRPC's own defaults hold")
_LIBRARIES = Flag("emulated", "nothing is loaded from there; engines are Python packages")
_LOG = Flag("emulated", "`--log-level` is derived from it")
_TRACE = Flag("emulated", "told as `--trace-config`, whose older form it is")
_SAGEMAKER = Flag("refused", "no SageMaker endpoint")
_VERTEX = Flag("refused", "no Vertex AI endpoint")

TRITON_FLAGS: Mapping[str, Flag] = {
    "help": Flag("honoured", "the flags of this server", takes_value=False),
    "id": _YES,
    "exit-timeout-secs": _YES,
    "model-store": Flag("honoured", "as `--model-repository`"),
    "model-repository": _YES,
    "exit-on-error": Flag("honoured", "false unless it is given; a server whose models fail stays up and is not ready"),
    "disable-auto-complete-config": Flag("honoured", "as `--strict-model-config true`", takes_value=False),
    "strict-readiness": _YES,
    "model-control-mode": _YES,
    "repository-poll-secs": _YES,
    "load-model": _YES,
    "model-config-name": _YES,
    "model-load-thread-count": _YES,
    "model-load-retry-count": Flag("refused", "a load that failed is tried again when it is asked for", ("0",)),
    "model-namespacing": Flag("refused", "there is one name space", FALSE),
    "enable-peer-access": Flag("emulated", "each engine stays on its own GPU"),
    "allow-http": _ALWAYS_ON,
    "http-address": _YES,
    "http-port": _YES,
    "reuse-http-port": _YES,
    "http-header-forward-pattern": _YES,
    "http-thread-count": _THREADS,
    "http-restricted-api": _LOCKED,
    "allow-grpc": _ALWAYS_ON,
    "grpc-address": _YES,
    "grpc-port": _YES,
    "reuse-grpc-port": _YES,
    "grpc-header-forward-pattern": _YES,
    "grpc-infer-thread-count": _THREADS,
    "grpc-infer-allocation-pool-size": _POOL,
    "grpc-max-response-pool-size": _POOL,
    "grpc-use-ssl": Flag(_TLS.standing, _TLS.note, FALSE),
    "grpc-use-ssl-mutual": Flag(_TLS.standing, _TLS.note, FALSE),
    "grpc-server-cert": _TLS,
    "grpc-server-key": _TLS,
    "grpc-root-cert": _TLS,
    "grpc-infer-response-compression-level": _YES,
    "grpc-keepalive-time": _KEEPALIVE,
    "grpc-keepalive-timeout": _KEEPALIVE,
    "grpc-keepalive-permit-without-calls": _KEEPALIVE,
    "grpc-http2-max-pings-without-data": _KEEPALIVE,
    "grpc-http2-min-recv-ping-interval-without-data": _KEEPALIVE,
    "grpc-http2-max-ping-strikes": _KEEPALIVE,
    "grpc-max-connection-age": _KEEPALIVE,
    "grpc-max-connection-age-grace": _KEEPALIVE,
    "grpc-restricted-protocol": _LOCKED,
    "log-verbose": _LOG,
    "log-info": _LOG,
    "log-warning": _LOG,
    "log-error": _LOG,
    "log-format": Flag("refused", "set it at `v2/logging` while the server runs", ("default",)),
    "log-file": Flag("refused", "the log goes to standard error; redirect it", ("",)),
    "allow-sagemaker": Flag(_SAGEMAKER.standing, _SAGEMAKER.note, FALSE),
    "sagemaker-port": _SAGEMAKER,
    "sagemaker-safe-port-range": _SAGEMAKER,
    "sagemaker-thread-count": _SAGEMAKER,
    "allow-vertex-ai": Flag(_VERTEX.standing, _VERTEX.note, FALSE),
    "vertex-ai-port": _VERTEX,
    "vertex-ai-thread-count": _VERTEX,
    "vertex-ai-default-model": _VERTEX,
    "allow-metrics": _YES,
    "allow-gpu-metrics": Flag("honoured", "GPU metrics are there where `nvidia-ml-py` and a driver are"),
    "allow-cpu-metrics": Flag("honoured", "CPU metrics are there where `/proc` tells them"),
    "metrics-address": _YES,
    "metrics-port": _YES,
    "metrics-interval-ms": Flag(
        "honoured", "of the machine's metrics; those of models are never older than the answer"
    ),
    "metrics-config": Flag("honoured", "quantiles are within 1 % of the value, whatever error is allowed"),
    "trace-config": _YES,
    "backend-directory": _LIBRARIES,
    "backend-config": Flag(
        "honoured", "`default-max-batch-size`; `python,shm-...` means nothing here; any other setting is refused"
    ),
    "repoagent-directory": _LIBRARIES,
    "cache-config": Flag("honoured", "`local` only"),
    "cache-directory": _LIBRARIES,
    "rate-limit": _YES,
    "rate-limit-resource": _YES,
    "pinned-memory-pool-byte-size": _POOL,
    "cuda-memory-pool-byte-size": _POOL,
    "cuda-virtual-address-size": _POOL,
    "min-supported-compute-capability": Flag("refused", "an engine says itself which GPU it needs"),
    "buffer-manager-thread-count": _THREADS,
    "host-policy": Flag("refused", "pin the whole server to its cores instead"),
    "model-load-gpu-limit": Flag("refused", "a load that does not fit on the GPU fails by itself"),
    "strict-model-config": _YES,
    "response-cache-byte-size": Flag("honoured", "as `--cache-config local,size=`"),
    "trace-file": _TRACE,
    "trace-level": _TRACE,
    "trace-rate": _TRACE,
    "trace-count": _TRACE,
    "trace-log-frequency": _TRACE,
}
