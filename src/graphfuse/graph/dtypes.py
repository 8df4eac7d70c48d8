"""Element types: their names in the generated C and their sizes."""

from __future__ import annotations

import onnx_ir as ir

DType = ir.DataType

F32, F64, F16, BF16 = DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16
I8, U8, I16, U16 = DType.INT8, DType.UINT8, DType.INT16, DType.UINT16
I32, U32, I64, U64 = DType.INT32, DType.UINT32, DType.INT64, DType.UINT64
BOOL = DType.BOOL

# Suffix in the vector vocabulary (gf_load_f32), and the C type of one element in memory.
_C_NAMES: dict[DType, tuple[str, str]] = {
    F32: ("f32", "float"),
    F64: ("f64", "double"),
    I8: ("i8", "int8_t"),
    U8: ("u8", "uint8_t"),
    I16: ("i16", "int16_t"),
    U16: ("u16", "uint16_t"),
    I32: ("i32", "int32_t"),
    U32: ("u32", "uint32_t"),
    I64: ("i64", "int64_t"),
    U64: ("u64", "uint64_t"),
    BOOL: ("bool", "uint8_t"),
}

SUPPORTED = tuple(_C_NAMES)


def suffix(dtype: DType) -> str:
    """The name of the type in the vector vocabulary, e.g. "f32"."""
    return _C_NAMES[dtype][0]


def c_type(dtype: DType) -> str:
    """The C type of one element in memory, e.g. "float"."""
    return _C_NAMES[dtype][1]


def numpy_name(dtype: DType) -> str:
    """NumPy's name of the type, e.g. "float32"."""
    return str(dtype.numpy())


def item_bytes(dtype: DType) -> int:
    """Bytes of one element in memory; types narrower than a byte are not stored."""
    return int(dtype.itemsize)


def vector_type(dtype: DType) -> str:
    """The C type of a register of elements, e.g. "gf_f32"; bool is a mask."""
    return "gf_mask" if dtype == BOOL else f"gf_{suffix(dtype)}"


def is_float(dtype: DType) -> bool:
    return dtype in (F32, F64, F16, BF16)


def is_integer(dtype: DType) -> bool:
    return dtype in (I8, U8, I16, U16, I32, U32, I64, U64)
