# One worker image per set of libraries: EXTRAS=worker for io and beat, EXTRAS=worker,torch for devices.
FROM python:3.11-slim-bookworm AS libraries

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
RUN python -m venv /opt/venv

# The libraries change less often than the code: they are a layer of their own.
ARG EXTRAS=worker
COPY pyproject.toml README.md LICENSE constraints.txt ./
RUN /opt/venv/bin/pip install -c constraints.txt ".[${EXTRAS}]" && /opt/venv/bin/pip uninstall --yes modelyard
COPY shared ./shared
COPY workers ./workers
RUN /opt/venv/bin/pip install --no-deps --editable . && /opt/venv/bin/pip uninstall --yes pip

FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp PATH=/opt/venv/bin:$PATH
WORKDIR /app
RUN groupadd --gid 10001 modelyard \
 && useradd --uid 10001 --gid modelyard --no-create-home --home-dir /tmp --shell /usr/sbin/nologin modelyard \
 && install -d -o modelyard -g modelyard -m 0700 /var/lib/modelyard /store /bundles
COPY --from=libraries /opt/venv /opt/venv
COPY --from=libraries /app /app

ENV MODELYARD_DATA_DIR=/var/lib/modelyard MODELYARD_STORE__ROOT=/store
USER 10001:10001
CMD ["python", "-m", "workers", "io"]
