# syntax=docker/dockerfile:1
# An image for the nodes of a cluster, with the locked packages and nothing to install later:
#
#   docker build --target cpu --tag shopframe:cpu .
#   docker build --target gpu --tag shopframe:gpu .
#
# Both have the same packages: PyPI's torch, which runs on GPUs and CPUs. NVIDIA's libraries come with it, so a
# node for the target gpu needs only the driver and the container toolkit.
FROM python:3.11-slim-trixie AS packages
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==0.13.9
WORKDIR /build
COPY requirements-cluster.lock .
# The packages of the image are those of the lock, by their hashes, and no others. They are installed where a
# login shell finds them, because Ray's launcher and KubeRay start Ray with one.
RUN /opt/uv/bin/uv pip sync --system --no-cache --compile-bytecode --require-hashes requirements-cluster.lock
COPY pyproject.toml README.md LICENSE ./
COPY actors actors
COPY conf conf
COPY jobs jobs
RUN /opt/uv/bin/uv build --wheel --out-dir /dist . \
    && /opt/uv/bin/uv pip install --system --no-cache --no-deps /dist/*.whl

FROM python:3.11-slim-trixie AS cpu
# Ray's launcher copies files by rsync, and KubeRay asks a node by wget whether it is well.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --user-group shopframe
COPY --from=packages /usr/local /usr/local
# The user has the number of the first user of an EC2 machine, who owns the files that the launcher mounts.
USER 1000:1000
ENV HOME=/home/shopframe \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_worker_niceness=5
WORKDIR /home/shopframe
CMD ["shopframe", "--help"]

FROM cpu AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
