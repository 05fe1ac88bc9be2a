"""What the server can be told, by flag or by environment; read once, frozen, and unknown names are refused."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from enginehouse.errors import Error
from service.backend_config import max_batch_sizes_from_flags
from service.metrics.metrics_options import options_from_flags
from service.response_cache import capacity_from_flags
from service.scheduling.rate_limiter import limit_from_text

ENVIRONMENT_PREFIX = "ENGINEHOUSE_"


class Settings(BaseSettings):
    """Serve a model repository over HTTP and gRPC.

    Every flag can be given in the environment: `--http-port` is `ENGINEHOUSE_HTTP_PORT`.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_prog_name="python -m service",
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=False,
    )

    model_repository: Annotated[tuple[str, ...], NoDecode] = Field(
        min_length=1,
        description="directory of models in Triton's layout, or s3://, gs://, as:// and whatever fsspec reads; "
        "repeat it, or separate several by commas",
    )
    repository_cache: Path | None = Field(
        None, description="directory for copies of what URLs hold; by default enginehouse/repositories in the user's"
    )
    id: str = Field("enginehouse", description="name that /v2 answers; some clients expect 'triton'")
    http_address: str = Field("127.0.0.1", description="address of HTTP; 0.0.0.0 in a container")
    http_port: int = Field(8000, ge=0, le=65535, description="port of HTTP; 0 takes a free one")
    reuse_http_port: bool = Field(
        False, description="several servers listen on that port, each once its models are loaded; all of them say so"
    )
    grpc_address: str = Field("127.0.0.1", description="address of gRPC; 0.0.0.0 in a container")
    grpc_port: int = Field(8001, ge=0, le=65535, description="port of gRPC; 0 takes a free one")
    reuse_grpc_port: bool = Field(False, description="the same for the port of gRPC")
    metrics_address: str = Field("127.0.0.1", description="address of the metrics; 0.0.0.0 in a container")
    metrics_port: int = Field(8002, ge=0, le=65535, description="port of the metrics; 0 takes a free one")
    allow_metrics: bool = Field(True, description="tell metrics, on that port and as /metrics on that of HTTP")
    allow_gpu_metrics: bool = Field(
        True, description="read GPUs, where the extra gpu is installed and a driver is there"
    )
    allow_cpu_metrics: bool = Field(True, description="read the machine's processors and memory")
    metrics_interval_ms: int = Field(2000, ge=1, description="milliseconds between two readings of the machine")
    metrics_config: tuple[str, ...] = Field(
        (),
        description="summary_latencies=true adds quantiles, histogram_latencies=true first responses of decoupled "
        "models, counter_latencies=false takes sums away, summary_quantiles=0.5:0.05,0.99:0.001 chooses; repeat it",
    )
    model_control_mode: Literal["none", "poll", "explicit"] = Field(
        "none",
        description="none loads everything at the start; poll also what comes, changes or goes later; explicit what "
        "--load-model and clients ask for",
    )
    repository_poll_secs: float = Field(15.0, gt=0, description="seconds between looks at the repository in mode poll")
    model_load_thread_count: int = Field(4, ge=1, le=64, description="models, or versions, that load at once")
    model_load_memory_limit: Annotated[float, Field(gt=0, le=1)] | Literal["off"] = Field(
        0.95, description="share of the available memory that a load may need, by estimate; off lets every load try"
    )
    shared_engines: Path | None = Field(
        None,
        description="private directory, made if it is not there, in which servers of this machine find the engines "
        "that they share, those of models with the parameter isolation = shared",
    )
    model_config_name: str = Field(
        "", pattern=r"^[\w.-]*$", description="use a model's configs/NAME.pbtxt, where it has one, for its config.pbtxt"
    )
    strict_model_config: bool = Field(False, description="load only models whose configuration describes all of them")
    backend_config: tuple[str, ...] = Field(
        (),
        description="default-max-batch-size=8, of all backends, or BACKEND,default-max-batch-size=8; repeat it",
    )
    load_model: tuple[str, ...] = Field(
        (), description="model to load at the start in explicit mode; repeat it, or give * for all"
    )
    strict_readiness: bool = Field(True, description="ready only if every model that was asked for is")
    exit_on_error: bool = Field(False, description="end with exit code 1 if a model fails to load at the start")
    exit_timeout_secs: float = Field(30.0, ge=0, description="seconds that requests in flight may take at the end")
    drain_delay_secs: float = Field(
        0.0, ge=0, description="seconds to keep serving, not ready, before the end; the time a load balancer needs"
    )
    http_max_connections: int = Field(4096, ge=0, description="HTTP connections at once; more are told 503; 0 for any")
    http_max_input_size: int = Field(1 << 26, gt=0, description="bytes that an HTTP body may have, packed or unpacked")
    http_header_forward_pattern: str = Field(
        "", description="headers in whose name this regular expression is found become parameters of the request"
    )
    grpc_max_connections: int = Field(4096, gt=0, description="gRPC connections at once; more are closed")
    grpc_max_streams: int = Field(4096, gt=0, description="streams of all gRPC clients at once; more are UNAVAILABLE")
    grpc_max_message_size: int = Field(2**31 - 1, gt=0, le=2**31 - 1, description="bytes that a gRPC message may have")
    cache_config: tuple[str, ...] = Field(
        (), description="local,size=BYTES keeps answers of models with response_cache { enable: true }"
    )
    response_cache_byte_size: int | None = Field(
        None, ge=0, description="the older form of --cache-config; 0 for no cache"
    )
    rate_limit: Literal["off", "execution_count"] = Field(
        "off", description="execution_count lets instances run only while the resources that they name are free"
    )
    rate_limit_resource: tuple[str, ...] = Field(
        (), description="how many there are of a resource: name:count or name:count:device; repeat it"
    )
    grpc_header_forward_pattern: str = Field(
        "", description="headers of gRPC in whose name this regular expression is found become parameters"
    )
    grpc_infer_response_compression_level: Literal["none", "low", "medium", "high"] = Field(
        "none", description="how much gRPC answers are compressed; clients that cannot read it get them as they are"
    )
    allow_client_shm: bool = Field(
        False, description="let clients register shared memory of this machine; only where all of them may be trusted"
    )
    trace_config: tuple[str, ...] = Field(
        (), description="tracing, as in Triton: triton,file=PATH, level=TIMESTAMPS, rate=1, count=-1; repeat it"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is worth a line")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_environment(cls, values: Any) -> Any:
        known = {f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in cls.model_fields}
        given = [name for name in os.environ if name.upper().startswith(ENVIRONMENT_PREFIX)]
        unknown = [name for name in given if name.upper() not in known]
        if unknown:
            raise ValueError(f"unknown environment variables {', '.join(sorted(unknown))}; known: {sorted(known)}")
        return values

    @field_validator("backend_config")
    @classmethod
    def _check_backend_config(cls, settings: tuple[str, ...]) -> tuple[str, ...]:
        max_batch_sizes_from_flags(settings)
        return settings

    @field_validator("metrics_config")
    @classmethod
    def _check_metrics_config(cls, settings: tuple[str, ...]) -> tuple[str, ...]:
        try:
            options_from_flags(settings)
        except Error as problem:
            raise ValueError(str(problem)) from problem
        return settings

    @field_validator("model_repository", mode="before")
    @classmethod
    def _separate_repositories(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            return tuple(place.strip() for place in str(value).split(",") if place.strip())
        return value

    @model_validator(mode="after")
    def _resources_can_be_limited(self) -> "Settings":
        for text in self.rate_limit_resource:
            try:
                limit_from_text(text)
            except Error as problem:
                raise ValueError(str(problem)) from problem
        if self.rate_limit_resource and self.rate_limit == "off":
            raise ValueError("--rate-limit-resource needs --rate-limit execution_count; without it nothing is limited")
        return self

    @model_validator(mode="after")
    def _cache_is_given_once(self) -> "Settings":
        capacity_from_flags(self.cache_config, self.response_cache_byte_size)
        return self

    @model_validator(mode="after")
    def _load_model_needs_explicit(self) -> "Settings":
        if self.load_model and self.model_control_mode != "explicit":
            raise ValueError("--load-model needs --model-control-mode explicit; in other modes everything is loaded")
        return self
