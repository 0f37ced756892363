# One image for all of Millrace's programs: emulator, master, worker and client.
#
#   docker build -t millrace .
#
# Needs nothing but the source; works with and without BuildKit.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# Lines of backtraces are given up for a third of the size; messages keep their places.
ENV CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=symbols
RUN cargo build --release --locked --bins \
      --package millrace-client --package millrace-emulator \
      --package millrace-master --package millrace-worker \
 && mkdir -p /image/bin /image/work /image/access \
 && cp target/release/millrace target/release/millrace-emulator \
       target/release/millrace-master target/release/millrace-worker /image/bin/

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="Millrace" \
      org.opencontainers.image.licenses="Apache-2.0"
# What TLS to AWS is checked by; the base image has none of its own.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /image/bin/ /usr/local/bin/
# Files lie here, and belong to the user that everything runs as; a new volume begins as a copy of it.
COPY --from=build --chown=10001:10001 /image/work/ /var/lib/millrace/
COPY --from=build --chown=10001:10001 /image/access/ /var/lib/millrace-access/
USER 10001:10001
WORKDIR /var/lib/millrace
VOLUME /var/lib/millrace
# gRPC, REST and metrics of a master; Kinesis, DynamoDB and S3 of an emulator.
EXPOSE 7070 4566
CMD ["millrace", "--help"]
