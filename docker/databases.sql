-- PostgreSQL runs this when it makes its data directory.
CREATE DATABASE mlflow_auth;
CREATE DATABASE prefect;
