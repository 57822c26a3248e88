# One worker image per set of libraries: EXTRAS=worker for io and beat, EXTRAS=worker,torch for devices.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HOME=/tmp
WORKDIR /app

RUN groupadd --gid 10001 modelyard \
 && useradd --uid 10001 --gid modelyard --no-create-home --home-dir /tmp --shell /usr/sbin/nologin modelyard \
 && install -d -o modelyard -g modelyard -m 0700 /var/lib/modelyard /store /bundles

# The libraries change less often than the code: they are a layer of their own.
ARG EXTRAS=worker
COPY pyproject.toml README.md LICENSE constraints.txt ./
RUN pip install -c constraints.txt ".[${EXTRAS}]" && pip uninstall --yes modelyard

COPY shared ./shared
COPY workers ./workers
RUN pip install --no-deps --editable .

ENV MODELYARD_DATA_DIR=/var/lib/modelyard MODELYARD_STORE__ROOT=/store
USER 10001:10001
CMD ["python", "-m", "workers", "io"]
