# docker build --target service-cpu -t enginehouse:cpu .          (also: service-gpu, optimizer)

FROM python:3.11-slim-bookworm AS environment
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/enginehouse/bin:$PATH
RUN python3 -m venv /opt/enginehouse
WORKDIR /src

FROM environment AS service-source
COPY pyproject.toml README.md LICENSE ./
COPY enginehouse enginehouse
COPY service service

FROM service-source AS service-cpu-environment
COPY locks/service.txt locks/
RUN pip install --require-hashes -r locks/service.txt \
    && pip install --no-deps --no-build-isolation . \
    && pip uninstall --yes setuptools pip

FROM service-source AS service-gpu-environment
COPY locks/service-gpu.txt locks/
RUN pip install --require-hashes -r locks/service-gpu.txt \
    && pip install --no-deps --no-build-isolation . \
    && pip uninstall --yes setuptools pip

FROM environment AS optimizer-environment
COPY locks/run.txt locks/
RUN pip install --require-hashes -r locks/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY enginehouse enginehouse
COPY optimizer optimizer
RUN pip install --no-deps --no-build-isolation . \
    && pip uninstall --yes setuptools pip

# What all three images share: a user without rights, and a model repository that this user may write.
FROM python:3.11-slim-bookworm AS runtime
RUN groupadd --gid 10001 enginehouse \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin enginehouse \
    && install --directory --owner=10001 --group=10001 /models /work
ENV PATH=/opt/enginehouse/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1
LABEL org.opencontainers.image.title="enginehouse" \
    org.opencontainers.image.licenses="Apache-2.0"
VOLUME /models

FROM runtime AS service
ENV ENGINEHOUSE_MODEL_REPOSITORY=/models \
    ENGINEHOUSE_HTTP_ADDRESS=0.0.0.0 \
    ENGINEHOUSE_HTTP_PORT=8000 \
    ENGINEHOUSE_GRPC_ADDRESS=0.0.0.0 \
    ENGINEHOUSE_GRPC_PORT=8001 \
    ENGINEHOUSE_METRICS_ADDRESS=0.0.0.0 \
    ENGINEHOUSE_METRICS_PORT=8002
EXPOSE 8000 8001 8002
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD [ \
    "python", "-c", \
    "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['ENGINEHOUSE_HTTP_PORT']), timeout=2); c.request('GET', '/v2/health/ready'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]

FROM service AS service-cpu
COPY --from=service-cpu-environment /opt/enginehouse /opt/enginehouse

# CUDA and cuDNN lie in the environment; the NVIDIA container runtime adds the host's driver.
FROM service AS service-gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/opt/enginehouse/lib/python3.11/site-packages/nvidia/cu13/lib:/opt/enginehouse/lib/python3.11/site-packages/nvidia/cudnn/lib
COPY --from=service-gpu-environment /opt/enginehouse /opt/enginehouse

FROM runtime AS optimizer
COPY --from=optimizer-environment /opt/enginehouse /opt/enginehouse
WORKDIR /work
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "optimizer"]
