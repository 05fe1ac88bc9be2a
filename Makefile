# Everything that people, the README and the continuous integration call. `make help` lists it.
PYTHON ?= python3
VENV := .venv
TORCH_VENV := .venv-torch
RTX_VENV := .venv-rtx
BIN := $(VENV)/bin
REPOSITORY ?= model_repo
MODELS := digits digits_mlp digits_lstm
PIP_FLAGS := -q --disable-pip-version-check
TORCH_PIP_FLAGS ?=
# The whole folder on the path, so that `python benchmarks/served_vs_raw.py` finds its neighbours.
EDITABLE := --config-settings editable_mode=compat --editable .

# ONNX Runtime's wheels collect usage data unless they are told not to.
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help install test-install torch-install rtx-install build run test test-torch test-rtx check format bench crash soak docs loadtest lock clean proto

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 18

install: $(VENV)/.installed ## set up .venv with the optimizer and the service

$(VENV)/.installed: locks/run.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --require-hashes -r locks/run.txt
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation $(EDITABLE)
	touch $@

test-install: $(VENV)/.test-installed ## add what the tests need to .venv

$(VENV)/.test-installed: $(VENV)/.installed locks/test.txt
	$(BIN)/python -m pip install $(PIP_FLAGS) --require-hashes -r locks/test.txt
	touch $@

torch-install: $(TORCH_VENV)/.installed ## set up .venv-torch with PyTorch, for training and .pt2 programs

# PyTorch is pinned by version, not by hash: which build is right (CPU or CUDA) depends on the machine.
$(TORCH_VENV)/.installed: locks/torch.txt pyproject.toml
	test -x $(TORCH_VENV)/bin/python || $(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip install $(PIP_FLAGS) --require-hashes -r locks/torch.txt
	$(TORCH_VENV)/bin/python -m pip install $(PIP_FLAGS) $(TORCH_PIP_FLAGS) torch==2.13.0
	$(TORCH_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation $(EDITABLE)
	touch $@

rtx-install: $(RTX_VENV)/.installed ## set up .venv-rtx with TensorRT-RTX, which builds plans without a GPU

$(RTX_VENV)/.installed: locks/rtx.txt pyproject.toml
	test -x $(RTX_VENV)/bin/python || $(PYTHON) -m venv $(RTX_VENV)
	$(RTX_VENV)/bin/python -m pip install $(PIP_FLAGS) --require-hashes -r locks/rtx.txt
	$(RTX_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation $(EDITABLE)
	touch $@

build: $(foreach name,$(MODELS),$(REPOSITORY)/$(name)/config.pbtxt) ## build the example engines that are not there yet

$(REPOSITORY)/%/config.pbtxt: | $(VENV)/.installed
	$(BIN)/python -m optimizer build examples/digits/$*.onnx --name $* --repository $(REPOSITORY) \
		--data examples/digits/digits.npz --metric top1 --max-drop 1%

run: build ## build the example, serve it, and print a request that works
	@echo
	@echo "Ask for a digit, once the server is ready (the largest logit is the answer):"
	@echo "  curl -s http://127.0.0.1:$${ENGINEHOUSE_HTTP_PORT:-8000}/v2/models/digits/infer -d @examples/digits/request.json"
	@echo
	@$(BIN)/python -m service --model-repository $(REPOSITORY)

test: test-install check ## every test that needs no PyTorch and no TensorRT
	$(BIN)/python -m pytest -m "not torch and not rtx"

test-torch: torch-install ## the tests that need PyTorch
	$(TORCH_VENV)/bin/python -m pytest -m torch tests/optimizer/importers tests/examples

test-rtx: rtx-install ## the tests that build TensorRT plans
	$(RTX_VENV)/bin/python -m pytest -m rtx tests/enginehouse/test_tensorrt_*.py tests/optimizer/build/test_tensorrt_*.py tests/optimizer/commands/test_check.py tests/optimizer/test_version_engines.py

check: test-install ## format, lint, types and floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: test-install ## mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: build ## the measurements that the README and docs/measurements.md quote
	$(BIN)/python -m benchmarks.original_vs_optimized --repository $(REPOSITORY)
	$(BIN)/python -m benchmarks.served_vs_raw

crash: test-install ## kill -9 of a model's process every two seconds: what its neighbour on the same server notices
	$(BIN)/python -m benchmarks.crash

soak: test-install ## reload a model of 100 MB under load for five minutes; docs/measurements.md keeps the result
	$(BIN)/python -m benchmarks.soak --seconds 300

LOCK = uv pip compile pyproject.toml --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q

lock: ## resolve the dependencies again (needs uv)
	$(LOCK) --extra build --extra cpu --extra optimizer --extra openvino --extra s3 --extra test --extra dev --extra loadtest -o locks/test.txt
	$(LOCK) --extra build --extra cpu --extra optimizer -c locks/test.txt -o locks/run.txt
	$(LOCK) --extra build --extra cpu -c locks/test.txt -o locks/service.txt
	$(LOCK) locks/service-gpu.in --extra build --extra gpu -c locks/test.txt -o locks/service-gpu.txt
	$(LOCK) locks/torch.in --extra build --extra cpu --extra optimizer --extra examples -c locks/test.txt -o locks/torch.txt
	$(LOCK) locks/rtx.in --extra build --extra cpu --extra optimizer --extra tensorrt-rtx -c locks/test.txt -o locks/rtx.txt

docs: test-install ## write the tables of docs/ from the code
	$(BIN)/python -m docs.tables

loadtest: test-install ## Locust against a server that runs here
	$(BIN)/locust --headless -f loadtests/locustfile.py --host http://127.0.0.1:8000 --users 8 --run-time 30s

clean: ## remove environments, caches and built example models
	rm -rf $(VENV) $(TORCH_VENV) $(RTX_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	rm -rf $(foreach name,$(MODELS),$(REPOSITORY)/$(name))

proto: ## compile the .proto files into inference.binpb and type stubs
	cd enginehouse/proto && ../../$(BIN)/python -m grpc_tools.protoc -I. --include_imports \
		--descriptor_set_out=inference.binpb --pyi_out=. model_config.proto grpc_service.proto
	sed -i 's/^import model_config_pb2/from enginehouse.proto import model_config_pb2/' enginehouse/proto/grpc_service_pb2.pyi
