"""What NVIDIA's data sheets say of a card: dense peaks and the bandwidth of its memory.

Peaks are without sparsity, at the boost clock; on cards of the GeForce series those with sums in
float32 (white papers of Ampere and Ada). A card under load may have a lower clock.
"""

from dataclasses import dataclass

from crlm_jax.plan.gpus import GPUS


@dataclass(frozen=True)
class Card:
    """FLOP/s by the format of the products, and bytes/s; 0: the card has no such unit."""

    bfloat16: float
    tf32: float
    float32: float
    bandwidth: float

    def product(self, precision: str) -> tuple[str, float]:
        """Returns the format in which convolutions multiply by default, and its peak.

        Args:
          precision: `float32`, which the libraries round to TF32 where the card has it, or
            `bfloat16`.
        """
        if precision == "bfloat16" and self.bfloat16:
            return "bfloat16", self.bfloat16
        if precision == "float32" and self.tf32:
            return "TF32", self.tf32
        return "float32", self.float32


def _card(bfloat16: float, tf32: float, float32: float, bandwidth: float) -> Card:
    """From TFLOP/s and GB/s."""
    return Card(bfloat16 * 1e12, tf32 * 1e12, float32 * 1e12, bandwidth * 1e9)


def _planned(name: str) -> Card:
    """A card that the planner knows too."""
    gpu = GPUS[name]
    return Card(gpu.peak_flops, gpu.tf32_flops, gpu.float32_flops, gpu.hbm_bandwidth)


CARDS = {  # by the name that the driver gives
    "NVIDIA B200": _card(2250, 1125, 75, 8000),
    "NVIDIA H200": _planned("h200"),
    "NVIDIA H200 NVL": _card(835, 417, 60, 4800),
    "NVIDIA H100 80GB HBM3": _planned("h100"),
    "NVIDIA H100 NVL": _card(835, 417, 60, 3900),
    "NVIDIA H100 PCIe": _card(756, 378, 51, 2000),
    "NVIDIA A100-SXM4-80GB": _planned("a100"),
    "NVIDIA A100-SXM4-40GB": _card(312, 156, 19.5, 1555),
    "NVIDIA A100 80GB PCIe": _card(312, 156, 19.5, 1935),
    "NVIDIA A100-PCIE-40GB": _card(312, 156, 19.5, 1555),
    "NVIDIA L40S": _card(362, 183, 91.6, 864),
    "NVIDIA L4": _planned("l4"),
    "NVIDIA A10": _card(125, 62.5, 31.2, 600),
    "Tesla T4": _card(0, 0, 8.1, 320),
    "Tesla V100-SXM2-16GB": _card(0, 0, 15.7, 900),
    "Tesla V100-SXM2-32GB": _card(0, 0, 15.7, 900),
    "NVIDIA GeForce RTX 4090": _card(165.2, 82.6, 82.6, 1008),
    "NVIDIA GeForce RTX 3090": _card(71, 35.6, 35.6, 936),
}
