# The same image for those with an engine; `make image` needs none. For both architectures:
#   docker buildx build --platform linux/amd64,linux/arm64 --tag REGISTRY/eniway:0.1.0 --push .
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends \
        ca-certificates gcc libc6-dev make musl-tools python3.11 python3.11-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY make make
COPY requirements-dev.lock requirements.lock ./
RUN make/venv python3.11 .venv requirements-dev.lock
COPY . .
RUN .venv/bin/pip install --quiet --no-build-isolation --no-deps --editable . && .venv/bin/python -m image.root /root-fs

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends \
        ca-certificates ipset iptables libpython3.11-stdlib libstdc++6 nftables python3.11-minimal && rm -rf /var/lib/apt/lists/*
COPY --from=build /root-fs /
ENV LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
LABEL org.opencontainers.image.title=eniway org.opencontainers.image.version=0.1.0
ENTRYPOINT ["/usr/bin/eniway"]
