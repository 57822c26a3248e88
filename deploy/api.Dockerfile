# The API and Flower: no torch, no worker.
FROM python:3.11-slim-bookworm AS libraries

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
RUN python -m venv /opt/venv

# The libraries change less often than the code: they are a layer of their own.
COPY pyproject.toml README.md LICENSE constraints.txt ./
RUN /opt/venv/bin/pip install -c constraints.txt ".[api]" && /opt/venv/bin/pip uninstall --yes modelyard
COPY shared ./shared
COPY api ./api
RUN /opt/venv/bin/pip install --no-deps --editable . && /opt/venv/bin/pip uninstall --yes pip

FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp PATH=/opt/venv/bin:$PATH
WORKDIR /app
RUN groupadd --gid 10001 modelyard \
 && useradd --uid 10001 --gid modelyard --no-create-home --home-dir /tmp --shell /usr/sbin/nologin modelyard \
 && install -d -o modelyard -g modelyard -m 0700 /var/lib/modelyard /flower
COPY --from=libraries /opt/venv /opt/venv
COPY --from=libraries /app /app

ENV MODELYARD_DATA_DIR=/var/lib/modelyard MODELYARD_API__HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
VOLUME /var/lib/modelyard
# Others can reach it: without MODELYARD_API_KEY the first start makes one, and prints it once.
CMD ["python", "-m", "api", "--make-key"]
