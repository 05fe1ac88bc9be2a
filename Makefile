# Everything that people, the README and the continuous integration call. `make help` lists it.
PYTHON ?= python3
VENV := .venv
TORCH_VENV := .venv-torch
BIN := $(VENV)/bin
REPOSITORY ?= model_repo
PIP_FLAGS := -q --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install test-install torch-install run build test test-torch check format lock proto bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 18

install: $(VENV)/.installed ## set up .venv with the optimizer and the service

$(VENV)/.installed: locks/run.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --require-hashes -r locks/run.txt
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e .
	touch $@

proto: ## compile the .proto files into inference.binpb and type stubs
	cd enginehouse/proto && ../../$(BIN)/python -m grpc_tools.protoc -I. --include_imports \
		--descriptor_set_out=inference.binpb --pyi_out=. model_config.proto grpc_service.proto
	sed -i 's/^import model_config_pb2/from enginehouse.proto import model_config_pb2/' enginehouse/proto/grpc_service_pb2.pyi
