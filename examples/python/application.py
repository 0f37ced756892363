"""Submits, watches and stops an application with nothing but Millrace's proto files.

    pip install grpcio grpcio-tools
    eval "$(millrace local env)"
    python examples/python/application.py submit --name words --stream lines --path s3://results/words/
    python examples/python/application.py watch words --batches 3
    python examples/python/application.py stop words

The stubs are generated from proto/ when it starts; a program of yours does that once, in its build.
"""

import argparse
import atexit
import importlib
import json
import os
import pathlib
import sys
import tempfile
import time
import uuid

import grpc
from google.protobuf import json_format
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
CALL_SECONDS = 30


def stubs():
    """The messages and the service, generated from proto/ and nothing else."""
    directory = tempfile.TemporaryDirectory(prefix="millrace-stubs-")
    atexit.register(directory.cleanup)
    out = directory.name
    names = ["types", "application", "client"]
    files = [f"millrace/v1/{name}.proto" for name in names]
    arguments = ["protoc", f"-I{PROTO}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(arguments + files) != 0:
        sys.exit("the proto files can not be compiled")
    sys.path.insert(0, out)
    load = importlib.import_module
    return (
        load("millrace.v1.application_pb2"),
        load("millrace.v1.client_pb2"),
        load("millrace.v1.client_pb2_grpc"),
    )


application_pb2, client_pb2, client_pb2_grpc = stubs()


def token():
    """What the master is shown: the token in MILLRACE_TOKEN_FILE, or MILLRACE_TOKEN."""
    path = os.environ.get("MILLRACE_TOKEN_FILE")
    if path:
        return pathlib.Path(path).read_text().strip()
    return os.environ.get("MILLRACE_TOKEN", "")


def connect():
    """The service of the master in MILLRACE_MASTER, and the metadata of every call."""
    master = os.environ.get("MILLRACE_MASTER", "127.0.0.1:7070")
    channel = grpc.insecure_channel(master.removeprefix("http://"))
    metadata = [("authorization", f"Bearer {token()}")] if token() else []
    return client_pb2_grpc.ClientServiceStub(channel), metadata


def word_count(name, stream, path):
    """The specification. Every field is said: the master fills nothing in."""
    a = application_pb2
    cost = a.ResourcesSpec.Cost
    mebibyte = 1 << 20
    source = a.SourceSpec(
        name="logs",
        stream=stream,
        start=a.StartPosition(earliest=True),
        receivers=a.Receivers(per_executor=True),
        storage_level=a.STORAGE_LEVEL_MEMORY_AND_DISK,
        format=a.RECORD_FORMAT_TEXT,
        on_bad_record=a.BAD_RECORD_POLICY_FAIL,
        on_data_loss=a.DATA_LOSS_POLICY_FAIL,
        out_of_range=a.OUT_OF_RANGE_POLICY_AUTO,
    )
    sql = (
        "SELECT word, count(*) AS n FROM "
        "(SELECT unnest(string_to_array(line, ' ')) AS word FROM logs) GROUP BY word"
    )
    return a.ApplicationSpec(
        name=name,
        resources=a.ResourcesSpec(
            min_executors=1,
            max_executors=1,
            executor=cost(cores=1, memory_bytes=512 * mebibyte),
            driver=cost(cores=1, memory_bytes=256 * mebibyte),
        ),
        batch=a.BatchSpec(interval_ms=1_000, deadline_ms=600_000),
        sources=[source],
        query=a.QuerySpec(sql=sql),
        sink=a.SinkSpec(
            path=path,
            format=a.SINK_FORMAT_JSON,
            compression=a.COMPRESSION_NONE,
            max_open_partitions=100,
        ),
    )


def submit(arguments):
    spec = word_count(arguments.name, arguments.stream, arguments.path)
    # Send the same id again when an answer was lost: it is the same submission.
    request = client_pb2.SubmitApplicationRequest(
        spec=spec, request_id=arguments.request_id or str(uuid.uuid4())
    )
    if arguments.print_json:
        print(json_format.MessageToJson(request))
        return
    service, metadata = connect()
    answer = service.SubmitApplication(request, metadata=metadata, timeout=CALL_SECONDS)
    print(f"{answer.name} attempt {answer.attempt} revision {answer.revision}")


def watch(arguments):
    service, metadata = connect()
    request = client_pb2.GetApplicationRequest(name=arguments.name)
    ended = {
        client_pb2.APPLICATION_STATE_STOPPED,
        client_pb2.APPLICATION_STATE_FAILED,
        client_pb2.APPLICATION_STATE_REJECTED,
        client_pb2.APPLICATION_STATE_KILLED,
    }
    shown = None
    while True:
        answer = service.GetApplication(request, metadata=metadata, timeout=CALL_SECONDS)
        application = answer.application
        state = client_pb2.ApplicationState.Name(application.state)
        line = f"{state.removeprefix('APPLICATION_STATE_').lower()} batch {application.report.batch}"
        if line != shown:
            print(line, flush=True)
            shown = line
        if application.state in ended:
            sys.exit(f"{arguments.name} has ended: {application.reason}")
        if application.report.batch >= arguments.batches:
            return
        time.sleep(0.2)


def stop(arguments):
    service, metadata = connect()
    request = client_pb2.StopApplicationRequest(name=arguments.name)
    answer = service.StopApplication(request, metadata=metadata, timeout=CALL_SECONDS)
    print(client_pb2.ApplicationState.Name(answer.state))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("submit")
    command.add_argument("--name", required=True)
    command.add_argument("--stream", required=True)
    command.add_argument("--path", required=True)
    command.add_argument("--request-id")
    command.add_argument("--print-json", action="store_true", help="print the message, do not send it")
    command.set_defaults(run=submit)
    command = commands.add_parser("watch")
    command.add_argument("name")
    command.add_argument("--batches", type=int, default=1)
    command.set_defaults(run=watch)
    command = commands.add_parser("stop")
    command.add_argument("name")
    command.set_defaults(run=stop)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except grpc.RpcError as error:
        # Code, what happened, and more for programs in the metadata `millrace-failure-bin`.
        sys.exit(json.dumps({"status": error.code().name, "message": error.details()}))


if __name__ == "__main__":
    main()
