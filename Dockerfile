# mtl in a container: docker build -t mtl .   For NVIDIA GPUs: --build-arg DEVICE=cuda
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# cpu: torch's build without CUDA, a tenth of the size. cuda: the build of PyPI, with CUDA's libraries.
ARG DEVICE=cpu
# Extras of mtl, separated by commas: tensorboard,generation
ARG EXTRAS=

WORKDIR /src
COPY constraints.txt setup.cfg pyproject.toml MANIFEST.in README.md LICENSE ./
# torch comes first: its layer is large, and stays as it is while only the code changes.
RUN set -eu; \
    version=$(sed -n 's/^torch==//p' constraints.txt); \
    case "$DEVICE" in \
        cpu) pip install --no-cache-dir "torch==$version" --index-url https://download.pytorch.org/whl/cpu ;; \
        cuda) pip install --no-cache-dir "torch==$version" ;; \
        *) echo "DEVICE is cpu or cuda, not '$DEVICE'" >&2; exit 2 ;; \
    esac
COPY mtlcli ./mtlcli
COPY conf ./conf
RUN pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}"

# Anyone may write here, whatever user the container runs as (docker run --user).
RUN mkdir -p /cache /work && chmod 1777 /cache /work
ENV MTL_CACHE=/cache/mtl HF_HOME=/cache/huggingface HOME=/cache PYTHONUNBUFFERED=1
WORKDIR /work
ENTRYPOINT ["mtl"]
CMD ["--help"]
