# libpsgd in a container:
#   docker build --target cpu -t libpsgd:cpu .
#   docker build --target cuda -t libpsgd:cuda .
# cpu is Debian 12. cuda is CUDA 13 with cuDNN on Ubuntu 24.04, and the same tree with its modules for
# CUDA, NCCL and the trainer's cuDNN. To run on the host's devices: docker run --gpus all.
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

FROM nvidia/cuda:${CUDA}-cudnn-devel-ubuntu24.04 AS cuda-build
COPY tools/deps.sh /src/tools/deps.sh
RUN /src/tools/deps.sh
COPY . /src
RUN /src/tools/container.sh build /stage

FROM nvidia/cuda:${CUDA}-cudnn-runtime-ubuntu24.04 AS cuda
COPY --from=cuda-build /stage /
RUN /usr/local/share/psgd/container.sh install
WORKDIR /workspace
CMD ["psgd", "--help"]
