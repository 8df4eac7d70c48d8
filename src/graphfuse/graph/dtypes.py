"""Element types: their names in the generated C, their sizes, and what they are computed in."""

from __future__ import annotations

import onnx_ir as ir

DType = ir.DataType

F32, F64, F16, BF16 = DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16
I8, U8, I16, U16 = DType.INT8, DType.UINT8, DType.INT16, DType.UINT16
I32, U32, I64, U64 = DType.INT32, DType.UINT32, DType.INT64, DType.UINT64
BOOL = DType.BOOL
E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ = DType.FLOAT8E4M3FN, DType.FLOAT8E4M3FNUZ, DType.FLOAT8E5M2, DType.FLOAT8E5M2FNUZ
E8M0, E2M1 = DType.FLOAT8E8M0, DType.FLOAT4E2M1
I4, U4, I2, U2 = DType.INT4, DType.UINT4, DType.INT2, DType.UINT2

# Suffix of an element in memory in the vector vocabulary (gf_load_f32), and its C type there.
_C_NAMES: dict[DType, tuple[str, str]] = {
    F32: ("f32", "float"),
    F64: ("f64", "double"),
    F16: ("f16", "uint16_t"),
    BF16: ("bf16", "uint16_t"),
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
# Types that are only stored, moved and converted: one byte each, the bits of which are also what a register holds.
# Their names in runtime/gf_narrow.h, and the type that holds all their values.
_CODES: dict[DType, tuple[str, DType]] = {
    E4M3FN: ("e4m3fn", F32),
    E4M3FNUZ: ("e4m3fnuz", F32),
    E5M2: ("e5m2", F32),
    E5M2FNUZ: ("e5m2fnuz", F32),
    E8M0: ("e8m0", F32),
    E2M1: ("e2m1", F32),
    I4: ("i4", I8),
    U4: ("u4", U8),
    I2: ("i2", I8),
    U2: ("u2", U8),
}

SUPPORTED = (*_C_NAMES, *_CODES)
# Floats that are computed in float32.
NARROW = (F16, BF16)
FLOAT8 = (E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ, E8M0)


def suffix(dtype: DType) -> str:
    """The name of an element in memory in the vector vocabulary, e.g. "f32"."""
    return "u8" if dtype in _CODES else _C_NAMES[dtype][0]


def register(dtype: DType) -> str:
    """The name in the vector vocabulary of what a register holds: "f32" for float16."""
    return "f32" if dtype in NARROW else suffix(dtype)


def c_type(dtype: DType) -> str:
    """The C type of one element in memory, e.g. "float"."""
    return "uint8_t" if dtype in _CODES else _C_NAMES[dtype][1]


def scalar_type(dtype: DType) -> str:
    """The C type of one element that is computed with: "float" for float16."""
    return "float" if dtype in NARROW else c_type(dtype)


def numpy_name(dtype: DType) -> str:
    """NumPy's (or ml_dtypes') name of the type, e.g. "float32"."""
    return str(dtype.numpy())


def item_bytes(dtype: DType) -> int:
    """Bytes of one element in memory; what is narrower than a byte takes one."""
    return max(1, int(dtype.itemsize))


def vector_type(dtype: DType) -> str:
    """The C type of a register of elements, e.g. "gf_f32"; bool is a mask."""
    return "gf_mask" if dtype == BOOL else f"gf_{register(dtype)}"


def code_name(dtype: DType) -> str | None:
    """The name of a type that is only stored, moved and converted, e.g. "e4m3fn"; None for all others."""
    return _CODES[dtype][0] if dtype in _CODES else None


def natural(dtype: DType) -> DType:
    """The type that a value is computed in: float32 for the narrow floats, 8 bits for the narrow integers."""
    return F32 if dtype in NARROW else _CODES[dtype][1] if dtype in _CODES else dtype


def is_float(dtype: DType) -> bool:
    return dtype in (F32, F64, F16, BF16)


def is_integer(dtype: DType) -> bool:
    return dtype in (I8, U8, I16, U16, I32, U32, I64, U64)
