"""What the fuzzer found, once shrunk: each was wrong, and is compiled in every way again."""

from __future__ import annotations

# Name: the body of ONNX's text form.
FOUND = {
    "reduced_integers": """g (int32[3, 5] x, int64[3, 5] z) => (int32[3, 1] a, int64[1, 5] b) {
        one = Constant<value = int64[1] {1}>() zero = Constant<value = int64[1] {0}>()
        a = ReduceL2(x, one) q = Mul(z, z) s = ReduceSum(q, zero) t = Add(s, one) b = ReduceLogSum(t, zero) }""",
    "shape_of_one_size": "g (int32[N] x) => (float[M] y) { s = Shape(x) y = ConstantOfShape(s) }",
    "constants_beyond_64_bits": """g () => (int64[1] y, int64[1] z) {
        c = Constant<value = int64[1] {4611686018427387904}>() y = Add(c, c) z = Mul(c, c) }""",
    "constants_that_wrap_in_a_cast": """g () => (uint8[2] y) {
        c = Constant<value = int64[2] {-4611686018427387904, 300}>() y = Cast<to = 2>(c) }""",
    "defaults_are_float32": """g (double[N] x) => (double[N] y, double[N] z) {
        y = LeakyRelu(x) z = ThresholdedRelu<alpha = 0.1>(x) }""",
    "features_of_one_row": """g (float[5] x, float[1, 2] z) => (float[1, N] y) {
        k = Constant<value = int64[2] {1, 3}>() a = ai.onnx.ml.ArrayFeatureExtractor(x, k)
        y = Concat<axis = 1>(a, z) }""",
    "extremes_of_no_elements": """g () => (int64[0] y, int64[0] z) {
        e = Constant<value = int64[0] {}>() k = Constant<value = int64[1] {3}>() y = Max(e, k) z = Mod(e, e) }""",
    "loop_without_states": """g (float[3] x) => (float[4, 3] y) {
        n = Constant<value = int64 {4}>() t = Constant<value = bool {1}>()
        y = Loop<body = b (int64 i, bool c) => (bool d, float[3] z) { d = Identity(c) z = Neg(x) }>(n, t) }""",
    "no_elements_in_a_shape_known_at_run_time": """g (int64[2] s, float[1] x) => (float[A, B] y) {
        i = Constant<value = int64[0, 1] {}>() a = Gather(x, i) y = Reshape(a, s) }""",
}
