# The pinned environment and this clone's package. With a GPU: --build-arg REQUIREMENTS=cuda, and
# `docker run --gpus all`.
FROM python:3.11-slim

# cpu or cuda: envs/requirements-cpu.txt has PyTorch's CPU build, the other its default one.
ARG REQUIREMENTS=cpu

# Files that pip installs are compiled once, here; the container's user may be any.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HF_HOME=/work/.cache/huggingface

WORKDIR /opt/mend
COPY envs envs
RUN if [ "$REQUIREMENTS" = cpu ]; then \
        pip install --index-url https://download.pytorch.org/whl/cpu torch==2.13.0; \
    fi \
    && pip install -r "envs/requirements-$REQUIREMENTS.txt"
COPY pyproject.toml README.md LICENSE ./
COPY workflow workflow
COPY mend mend
RUN pip install --no-deps .

WORKDIR /work
CMD ["mend", "--help"]
