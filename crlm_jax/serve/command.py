"""The command that answers a PACS: series come by C-STORE, segmentations go back.

python -m crlm_jax.serve --run runs/ct --send-to ORTHANC@127.0.0.1:4242 --spool spool
"""

import argparse
import importlib.util
import signal
import ssl
import sys
import threading
from collections.abc import Sequence

from crlm_jax import predict
from crlm_jax.errors import UserError
from crlm_jax.predict.announce import announce
from crlm_jax.predict.arguments import add_segmenting, check_rules
from crlm_jax.predict.ensemble import load
from crlm_jax.predict.segmenter import ScanSegmenter
from crlm_jax.runs.folder import read_run
from crlm_jax.runs.members import find_members
from crlm_jax.serve.rules import Rule, default_rules, read_rules
from crlm_jax.system.console import UsageError, local_path, print_stderr
from crlm_jax.system.preemption import EXIT_CODE, exit_when_told

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TITLE = 16  # characters of an AE title


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.serve",
        description="A DICOM node: takes series by C-STORE, segments them with a trained run, and "
        "sends DICOM-SEG and a structured report to an archive. Not a medical device.",
    )
    add = parser.add_argument
    add("--run", nargs="+", action="extend", required=True,
        help="folder of the run; several: the mean of their probabilities")  # fmt: skip
    add("--send-to", required=True, metavar="TITLE@HOST:PORT", help="archive that gets the results")
    add("--spool", type=local_path, required=True, metavar="FOLDER",
        help="the queue: images that came, results that were not sent yet")  # fmt: skip
    add("--ae", default="CRLM", metavar="TITLE", help="the node's own title (default: CRLM)")
    add("--host", default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine alone)")  # fmt: skip
    add("--port", type=int, default=11112, help="(default: 11112)")
    add("--allow", metavar="TITLES", default="",
        help="calling titles that are let in, joined by commas (default: all); a title is no "
        "security")  # fmt: skip
    add("--rules", type=local_path, metavar="TOML", help="which series is which condition")
    _add_limits(parser)
    group = parser.add_argument_group("TLS")
    group.add_argument("--tls-cert", type=local_path, metavar="PEM", help="the node's certificate")
    group.add_argument("--tls-key", type=local_path, metavar="PEM", help="its private key")
    group.add_argument("--tls-ca", type=local_path, metavar="PEM",
                       help="authority whose certificates peers must show")  # fmt: skip
    group.add_argument("--send-tls", action="store_true", help="also send by TLS")
    group = parser.add_argument_group("segmentation, as in predict")
    add = group.add_argument
    add_segmenting(add)
    add("--no-sr", action="store_true", help="send the DICOM-SEG alone, without a report")
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("limits").add_argument
    add("--quiet", type=float, default=30.0, metavar="S",
        help="seconds of rest after which a series is complete (default: 30)")  # fmt: skip
    add("--interrupted", type=float, default=600.0, metavar="S",
        help="the same for a series that a restart interrupted (default: 600)")  # fmt: skip
    add("--queue", type=int, default=500, metavar="N",
        help="series that may wait (default: 500)")  # fmt: skip
    add("--room", type=float, default=2.0, metavar="GIB",
        help="of the spool's disk that stay free (default: 2)")  # fmt: skip
    add("--largest", type=float, default=512.0, metavar="MIB",
        help="size of an object that is taken (default: 512)")  # fmt: skip
    add("--associations", type=int, default=8, metavar="N", help="at once (default: 8)")
    add("--keep", type=float, default=24.0, metavar="HOURS",
        help="how long images and results stay in the spool afterwards (default: 24)")  # fmt: skip


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; a usage error ends the program."""
    parser = _make_parser()
    args = parser.parse_args(argv)
    check_rules(parser, args)
    for name in ("quiet", "interrupted", "room", "keep"):
        if not getattr(args, name) >= 0:
            parser.error(f"--{name}: must be at least 0")
    for name in ("queue", "largest", "associations"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name}: must be above 0")
    args.allowed = [title.strip() for title in args.allow.split(",") if title.strip()]
    for title in (args.ae, *args.allowed):
        if not (title.isascii() and title.isprintable() and 0 < len(title.strip()) <= _TITLE):
            parser.error(f"title {title!r}: 1 to {_TITLE} characters of ASCII")
    if bool(args.tls_cert) != bool(args.tls_key):
        parser.error("--tls-cert and --tls-key belong together")
    if (args.tls_ca or args.send_tls) and not args.tls_cert:
        parser.error("--tls-ca and --send-tls need --tls-cert and --tls-key")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line until it is told to stop."""
    args = _parse(argv)
    if importlib.util.find_spec("pynetdicom") is None:
        raise UserError("pynetdicom is not installed; pip install 'crlm_jax[pacs]'")
    from crlm_jax.serve.node import Node
    from crlm_jax.serve.receive import Listening
    from crlm_jax.serve.send import Archive
    from crlm_jax.serve.spool import Limits, Spool
    from crlm_jax.serve.work import answer_with

    rules = _rules(args)
    inward, outward = _tls(args)
    archive = Archive.parse(args.send_to, outward)
    limits = Limits(args.queue, round(args.room * 2**30), args.quiet, args.interrupted,
                    args.keep * 3600)  # fmt: skip
    listening = Listening(args.ae, args.host, args.port, args.allowed, inward, args.associations,
                          round(args.largest * 2**20))  # fmt: skip
    segmenter = _load(args)
    for rule in rules:
        segmenter.windowed_as(rule.condition)
    exit_when_told()
    signal.signal(signal.SIGINT, lambda *_: sys.exit(EXIT_CODE))
    spool = Spool(args.spool, limits)
    node = Node(spool, listening, archive, rules)
    try:
        print_stderr(
            f"{args.ae} listens on {args.host}:{node.port}{' by TLS' if inward else ''}, sends to "
            f"{archive}, and keeps its queue in {args.spool}; computed by {segmenter.engine}"
        )
        if args.host not in _LOOPBACK and not inward:
            print_stderr("warning: images of patients come unencrypted; give --tls-cert")
        node.run(answer_with(segmenter, report=not args.no_sr), threading.Event().wait)
    finally:
        node.close()
    return 0


def _rules(args: argparse.Namespace) -> tuple[Rule, ...]:
    data = read_run(find_members(args.run)[0]).data
    if data.channels:
        raise UserError(
            f"--run {args.run[0]}: sees {', '.join(data.channels)} of a patient together, but the "
            "node segments one series at a time; give a run that sees one"
        )
    conditions = data.conditions
    rules = read_rules(args.rules) if args.rules else default_rules(conditions)
    for condition in sorted({rule.condition for rule in rules} - set(conditions)):
        print_stderr(
            f"warning: condition {condition}: the run was trained on {', '.join(conditions)}; see "
            "that the scans are of the same kind"
        )
    return rules


def _load(args: argparse.Namespace) -> ScanSegmenter:
    segmenter = load(
        args.run, tta=args.tta, threshold=args.threshold, min_lesion_mm3=args.min_lesion_mm3,
        device=predict.engine.xla.find_device(args.device) if args.device else None,
        engine=args.engine,
    )  # fmt: skip
    announce(segmenter)
    if segmenter.liver == "column":
        print_stderr("note: the run was measured within liver masks, which no series comes with")
    return segmenter


def _tls(args: argparse.Namespace) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """Returns how to listen and how to send; None: without TLS."""
    if not args.tls_cert:
        return None, None
    try:
        inward = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=args.tls_ca)
        outward = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=args.tls_ca)
        for context in (inward, outward):
            context.load_cert_chain(args.tls_cert, args.tls_key)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            f"--tls-cert {args.tls_cert}, --tls-key {args.tls_key}, --tls-ca {args.tls_ca}: cannot "
            f"be used ({error.strerror or error}); give PEM files that belong together"
        ) from error
    if args.tls_ca:
        inward.verify_mode = ssl.CERT_REQUIRED
    return inward, outward if args.send_tls else None
