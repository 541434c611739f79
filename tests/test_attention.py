"""What a notebook cannot ask of attention: a graph without breaks.

The compiler looks for a module around what it compiles; in a notebook there is none.
"""
import pytest
import torch
from tinyrope.kernels import kernel_shares_heads


@torch.compile(fullgraph=True, backend="eager")
def add_answer(x, masked):
    "Ask about a kernel within a graph"
    return x + kernel_shares_heads(x.device, x.dtype, x.shape[-1], masked)


@pytest.mark.parametrize("masked", [True, False])
def test_the_question_about_a_kernel_breaks_no_graph(masked):
    "`fullgraph` raises an error at a break; no kernel of a GPU takes tensors of the CPU"
    assert not add_answer(torch.zeros(2), masked).any()
