"""Decoding by ffmpeg, for formats that libsndfile does not read: in a process of its own, with limits.

The demuxer is chosen by the content. ffmpeg reads that one file only: no network, no playlists, no further files.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from threading import Timer
from typing import IO

import numpy as np
from jaxtyping import Float32

from otoscope.errors import AudioError

REMEDY = "install ffmpeg (https://ffmpeg.org), or convert the file to WAV or FLAC"

FFMPEG_EXTENSIONS = frozenset(
    (".m4a", ".m4b", ".aac", ".3gp", ".3g2", ".amr", ".wma", ".webm", ".weba", ".mka", ".ac3", ".wv", ".ape", ".tta")
)
"""Lower-case extensions of sound that only ffmpeg reads; videos are listed by a table only."""

LONGEST_S = 48 * 3600
"""Longest recording that is decoded."""

STALL_S = 60.0
"""Seconds without output after which the process is killed."""

MEMORY_KB, CPU_S = 2 << 20, 3600
"""Limits of the process on POSIX: address space, and processor time."""

_OUT_OF_TIME = (-24, -9)
"""Return codes of a process that reached `CPU_S`: SIGXCPU, or SIGKILL where both limits are the same."""


def find_ffmpeg() -> str | None:
    """Return the path of the program; None if it is not installed."""
    return shutil.which("ffmpeg")


class FfmpegSound:
    """The first audio stream of a file as ffmpeg decodes it; its length is known only at its end."""

    samples: int | None = None
    slack = 0
    note = ""
    is_lossy = True

    def __init__(self, path: Path, demuxer: str) -> None:
        """Start the process and read the sample rate; raise `AudioError` if it finds no sound."""
        program = find_ffmpeg()
        if program is None:
            raise AudioError(f"needs ffmpeg; {REMEDY}")
        self._path = path.resolve()
        self._command = [
            *(program, "-nostdin", "-hide_banner", "-v", "error", "-threads", "1"),
            *("-protocol_whitelist", "file,pipe", "-f", demuxer, "-i", f"file:{self._path}"),
            *("-map", "0:a:0", "-t", str(LONGEST_S), "-c:a", "pcm_f32be", "-f", "au", "pipe:1"),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._stalled = False
        self.rate_hz, self.channels = self._start()

    def blocks(self, first: int, count: int | None, block: int) -> Generator[Float32[np.ndarray, "samples channels"]]:
        """Yield the samples from `first` on, at most `count`, in blocks."""
        if self._process is None:
            self._start()
        wanted, position = None if count is None else first + count, 0
        while wanted is None or position < wanted:
            samples = block if wanted is None else min(block, wanted - position)
            data = self._read(samples * self.channels * 4)
            if len(data) % (self.channels * 4):
                raise AudioError("ffmpeg stopped in the middle of a sample")
            decoded = np.frombuffer(data, ">f4").reshape(-1, self.channels)
            position += len(decoded)
            if position > first and len(decoded):
                skipped = max(0, len(decoded) - (position - first))
                yield decoded[skipped:].astype(np.float32)
            if len(decoded) < samples:
                self._finish()
                if position >= LONGEST_S * self.rate_hz:
                    raise AudioError(f"longer than {LONGEST_S // 3600} hours; cut it into pieces")
                return
        self.close()

    def close(self) -> None:
        """Stop the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        if self._errors is not None:
            self._errors.close()
        self._process = self._errors = None

    def _start(self) -> tuple[int, int]:
        """Start the process; return the sample rate and the number of channels from its header (AU)."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        command = self._command
        if os.name == "posix":
            # set by a shell, because code between fork and exec is unsafe in a process with threads
            limits = f"ulimit -v {MEMORY_KB} 2>/dev/null; ulimit -t {CPU_S} 2>/dev/null; exec"
            command = ["/bin/sh", "-c", f'{limits} "$0" "$@"', *command]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors)
        head = self._read(24)
        if len(head) < 24:
            self._finish()
            raise AudioError("cannot be decoded as audio (ffmpeg finds no sound)")
        offset, _, _, rate_hz, channels = (int.from_bytes(head[at : at + 4], "big") for at in range(4, 24, 4))
        self._read(offset - 24)
        return rate_hz, channels

    def _read(self, count: int) -> bytes:
        """Return `count` bytes of output, fewer at its end; kill a process that stalls."""
        process = self._process
        if process is None or process.stdout is None:
            return b""
        timer = Timer(STALL_S, self._stop_stalled, [process])
        timer.start()
        try:
            return process.stdout.read(count)
        finally:
            timer.cancel()

    def _stop_stalled(self, process: subprocess.Popen[bytes]) -> None:
        self._stalled = True
        process.kill()

    def _finish(self) -> None:
        """Wait for the end of the process; raise `AudioError` if it reported an error."""
        process, errors = self._process, self._errors
        if process is None or errors is None:
            return
        status = process.wait()
        errors.seek(0)
        lines = errors.read(2000).decode("utf-8", "replace").strip().splitlines()
        self.close()
        if self._stalled:
            raise AudioError(f"cannot be decoded as audio (ffmpeg did not go on for {STALL_S:g} s)")
        if status in _OUT_OF_TIME:
            raise AudioError(f"cannot be decoded as audio (ffmpeg took more than {CPU_S:,} s of processor time)")
        if lines or status:
            # addresses and folders in a message differ between runs
            reason = re.sub(r"\[[^]]* @ 0x[0-9a-f]+\] *", "", lines[0]) if lines else f"stopped with status {status}"
            reason = reason.removeprefix(f"file:{self._path}: ")
            if "matches no streams" in reason:
                raise AudioError("has no stream of sound, only pictures or other data")
            raise AudioError(f"cannot be decoded as audio (ffmpeg: {reason.strip()})")
