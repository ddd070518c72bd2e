# One image for every role: the command says which. The embedded Postgres is for trying things out; here, set DATABASE_URL.
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/mirror \
 && /opt/mirror/bin/pip install --quiet --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY reconciler reconciler
COPY sql sql
COPY simulator simulator
RUN /opt/mirror/bin/pip install --quiet --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
# an account with a name, for initdb refuses one without
RUN groupadd --system --gid 10001 mirror \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/messenger-mirror --create-home mirror
COPY --from=build /opt/mirror /opt/mirror
ENV PATH=/opt/mirror/bin:$PATH HOST=0.0.0.0 PORT=8000 DATA_DIR=/var/lib/messenger-mirror/data \
    SPOOL_DIR=/var/lib/messenger-mirror/spool
# a number: only of that can Kubernetes tell that it is not root
USER 10001:10001
WORKDIR /var/lib/messenger-mirror
# holds the spool: deliveries that were answered 200 while Postgres was away
VOLUME /var/lib/messenger-mirror
EXPOSE 8000
# not /readyz: a process that waits for its Postgres receives meanwhile, and must not be restarted for it
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["messenger-mirror"]
CMD ["serve"]
