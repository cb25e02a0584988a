# One image for every part of VÉLØ. Its arguments are those of `velo`. See docs/runbook.md.
FROM python:3.11.11-slim-bookworm AS packages
RUN python -m venv /venv
COPY requirements.lock .
# every package by its hash, from the builder's package index
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement requirements.lock

FROM python:3.11.11-slim-bookworm
# LightGBM's wheel links the OpenMP runtime but does not include it
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin velo \
 && install --directory --owner=velo --group=velo /data
COPY --from=packages /venv /venv
WORKDIR /srv/velo
COPY velo velo
COPY feature_repo feature_repo
COPY streams streams
COPY training training
COPY serving serving
COPY benchmarks benchmarks
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/srv/velo \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VELO_HOME=/data
USER 10001
VOLUME ["/data"]
ENTRYPOINT ["python", "-m", "velo.cli"]
CMD ["--help"]
# checks that the store opens; the composed services have stricter checks
HEALTHCHECK --interval=30s --timeout=20s --start-period=20s CMD ["python", "-m", "velo.cli", "status", "--json"]
