# libpsgd in a container:
#   docker build --target cpu -t libpsgd:cpu .
#   docker build --target cuda -t libpsgd:cuda .
# cpu is Debian 12. cuda is CUDA 13 on Ubuntu 24.04, and the same tree: it has no code for GPUs yet,
# so that today this image does what cpu does, beside the CUDA libraries of a trainer of your own.
ARG CUDA=13.0.1

FROM debian:12 AS cpu-build
COPY tools/deps.sh /src/tools/deps.sh
RUN /src/tools/deps.sh
COPY . /src
RUN /src/tools/container.sh build /stage

FROM debian:12-slim AS cpu
COPY --from=cpu-build /stage /
RUN /usr/local/share/psgd/container.sh install
WORKDIR /workspace
CMD ["psgd", "--help"]

FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS cuda-build
COPY tools/deps.sh /src/tools/deps.sh
RUN /src/tools/deps.sh
COPY . /src
RUN /src/tools/container.sh build /stage

FROM nvidia/cuda:${CUDA}-runtime-ubuntu24.04 AS cuda
COPY --from=cuda-build /stage /
RUN /usr/local/share/psgd/container.sh install
WORKDIR /workspace
CMD ["psgd", "--help"]
