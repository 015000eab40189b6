# The servers' image: MLflow and Prefect with their back ends, and segops' guard; no torch, no DVC.
#
#   docker build --file docker/servers.Dockerfile --tag segops-servers .
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/opt/segops/src \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    DO_NOT_TRACK=true \
    MLFLOW_DISABLE_TELEMETRY=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    HOME=/home/segops \
    USER=segops

WORKDIR /opt/segops
COPY constraints.txt ./
RUN pip install --constraint constraints.txt \
      asyncpg boto3 fastapi filelock Flask-WTF httpx mlflow prefect psutil psycopg2-binary \
      pydantic PyYAML rich SQLAlchemy starlette typer uvicorn
# flows/ starts Prefect's server; a checkout is where dvc.yaml is.
COPY dvc.yaml ./
COPY flows flows
COPY src src
COPY docker/entrypoint.sh /usr/local/bin/

RUN mkdir -p /home/segops && chmod 1777 /home/segops
USER 1000:1000

ENTRYPOINT ["entrypoint.sh"]
CMD ["python", "-m", "segops", "--help"]
