# One drive as a container: docker run -v drive:/data -p 4420:4420 IMAGE. See docs/deployment.md.

FROM debian:bookworm-slim AS build
# The compiler and Python of the release are the right ones, whatever their patch level.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY ocssd_tcp ocssd_tcp
# An image without the compiled engine would be a slow one that nobody notices: that fails here.
RUN python3 -m venv /opt/ocssd \
 && /opt/ocssd/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && /opt/ocssd/bin/pip install --no-cache-dir /wheels/ocssd_tcp-*.whl \
 && OCSSD_TCP_ACCEL=require /opt/ocssd/bin/ocssd-tcpd --version \
 && /opt/ocssd/bin/pip uninstall --yes pip setuptools \
 && find /opt/ocssd -type d -name tests -prune -exec rm -rf {} +

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner=10001 --group=10001 /data \
 && install --directory /etc/ocssd
COPY --from=build /opt/ocssd /opt/ocssd
COPY deploy/image.toml /opt/ocssd/image.toml
COPY deploy/drive.toml /etc/ocssd/drive.toml

ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="ocssd-tcp" \
      org.opencontainers.image.description="An Open-Channel SSD 2.0 drive as a network service: NVMe over TCP" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

ENV PATH=/opt/ocssd/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 4420 9420
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python3", "-m", "ocssd_tcp.cli.health", "/opt/ocssd/image.toml", "/etc/ocssd/drive.toml"]
# Keys of the file that is mounted win over those of the image; arguments are the daemon's own.
ENTRYPOINT ["ocssd-tcpd", "--config", "/opt/ocssd/image.toml", "--config", "/etc/ocssd/drive.toml"]
