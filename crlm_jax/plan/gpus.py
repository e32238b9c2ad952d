"""The figures of NVIDIA's GPUs, and what XLA has to be told to compile for one that is not there.

Peaks (dense, without sparsity), memory and NVLink are those of NVIDIA's data sheets
(https://www.nvidia.com/en-us/data-center/, pages a100, h100, h200 and l4, read in November 2026).
"""

from dataclasses import dataclass
from typing import ClassVar

from crlm_jax.errors import UserError
from crlm_jax.plan.chip import GIB, Chip
from crlm_jax.plan.hlo import Program
from crlm_jax.plan.kernels import kernels

# Of an exchange between the GPUs of one host, one way, s; a rule of thumb for NCCL.
EXCHANGE_SECONDS = 1e-5
MOST = 8  # GPUs that NVLink joins in a host


@dataclass(frozen=True)
class Gpu(Chip):
    """One kind of GPU. Its tensor cores take bfloat16 and TF32, its other units float32.

    `link_bandwidth` is that of NVLink, or of PCIe where a card has none; `clock` is at boost.
    """

    tf32_flops: float  # 1/s; float32 at JAX's default precision
    float32_flops: float  # 1/s; float32 at the precision "highest"
    capability: tuple[int, int]
    multiprocessors: int
    units: int  # for float32, of a multiprocessor
    l2_bytes: int
    shared_bytes: int  # of a multiprocessor

    platform: ClassVar[str] = "gpu"

    def peak(self, precision: str) -> float:
        """FLOP/s of products in "bfloat16", "tf32" or "float32"."""
        rates = {"tf32": self.tf32_flops, "float32": self.float32_flops}
        return rates.get(precision, self.peak_flops)

    def compute_seconds(self, program: Program) -> float:
        """Returns the least time of a step: of every kernel, that of its FLOPs or of its bytes.

        A kernel reads its operands from memory once and writes its result once; what stays in the
        second-level cache takes less. Launches, and kernels that reach neither peak, take more.
        """
        return sum(
            max(kernel.flops / self.peak(kernel.precision), kernel.bytes / self.hbm_bandwidth)
            for kernel in kernels(program)
        )

    def send_bandwidth(self, shape: tuple[int, ...]) -> float:
        """Bytes/s that a GPU sends to the others of its host."""
        return self.link_bandwidth / 2

    def latency(self, shape: tuple[int, ...]) -> float:
        """Seconds of an exchange without length, one way; none if the GPU is alone."""
        return EXCHANGE_SECONDS if shape[0] > 1 else 0.0

    def target(self) -> str:
        """Returns the description that XLA compiles for (a GpuTargetConfigProto, as text)."""
        major, minor = self.capability
        return f"""
            platform_name: "CUDA"
            device_description_str: "{self.name}"
            dnn_version_info {{ major: 9 minor: 10 }}
            runtime_version {{ major: 12 minor: 8 }}
            gpu_device_info {{
              cuda_compute_capability {{ major: {major} minor: {minor} }}
              core_count: {self.multiprocessors}
              fpus_per_core: {self.units}
              clock_rate_ghz: {self.clock / 1e9:g}
              memory_bandwidth: {self.hbm_bandwidth:.0f}
              device_memory_size: {self.hbm_bytes}
              l2_cache_size: {self.l2_bytes}
              shared_memory_per_core: {self.shared_bytes}
              shared_memory_per_block_optin: {self.shared_bytes - 1024}
              shared_memory_per_block: 49152
              threads_per_warp: 32
              threads_per_block_limit: 1024
              threads_per_core_limit: {1536 if self.capability == (8, 9) else 2048}
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647
              block_dim_limit_y: 65535
              block_dim_limit_z: 65535
            }}"""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 80 * GIB, 312e12, 2039e9, 600e9, 1.41e9, 156e12, 19.5e12, (8, 0), 108, 64,
            40 * 2**20, 164 * 1024),
        Gpu("h100", 80 * GIB, 989e12, 3350e9, 900e9, 1.98e9, 495e12, 67e12, (9, 0), 132, 128,
            50 * 2**20, 228 * 1024),
        Gpu("h200", 141 * 10**9, 989e12, 4800e9, 900e9, 1.98e9, 495e12, 67e12, (9, 0), 132, 128,
            50 * 2**20, 228 * 1024),
        Gpu("l4", 24 * GIB, 121e12, 300e9, 64e9, 2.04e9, 60e12, 30.3e12, (8, 9), 58, 128,
            48 * 2**20, 100 * 1024),
    )
}  # fmt: skip


def parse_count(topology: str, gpu: Gpu) -> tuple[int, ...]:
    """Reads the number of GPUs of one host from a name such as h100:8; h100 alone is one.

    Raises:
      UserError: it is no number from 1 to 8.
    """
    word = topology.partition(":")[2] or "1"
    if not word.isdecimal() or not 1 <= int(word) <= MOST:
        raise UserError(
            f"topology {topology!r}: a plan has 1 to {MOST} GPUs of one host, as in {gpu.name}:4"
        )
    return (int(word),)
