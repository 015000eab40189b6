# The serving image: `segops serve` on ONNX Runtime; no torch, no MLflow, no DVC.
#
#   docker build --file docker/serve.Dockerfile --tag segops-serve .
#   docker run --rm --read-only --tmpfs /tmp --publish 127.0.0.1:8080:8080 \
#     --volume "$PWD/export:/model:ro" --volume "$PWD/keys:/run/secrets/serve_keys:ro" segops-serve
#
# About 0.5 GB: 356 MB of libraries, most of them OpenCV, ONNX Runtime and NumPy, on Python's 130 MB. The
# model is a directory that `segops export` wrote, mounted at /model, not part of the image.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/opt/segops/src \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    HOME=/tmp \
    USER=segops

WORKDIR /opt/segops
COPY constraints.txt docker/serve.requirements.txt ./
RUN pip install --constraint constraints.txt --requirement serve.requirements.txt
COPY src src

USER 1000:1000
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://localhost:8080/ready')"]

# The container is reached from outside, so that clients need a key of the file.
ENTRYPOINT ["python", "-m", "segops", "serve", "--host=0.0.0.0", "--key-file=/run/secrets/serve_keys"]
CMD ["--model=/model"]
