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
    "steps_back_beyond_the_first": """g (float[N] x) => (float[N] y, int64[2] z) {
        s = Constant<value = int64[1] {-1}>() e = Constant<value = int64[1] {-9}>()
        a = Constant<value = int64[1] {0}>() t = Constant<value = int64[1] {-2}>()
        far = Constant<value = int64[1] {-99}>() back = Constant<value = int64[1] {-1}>() y = Slice(x, s, far, a, back)
        c = Constant<value = int64[1] {7}>() q = Slice(c, s, e, a, t) z = Concat<axis = 0>(q, c) }""",
    "equal_choices_are_repeated": """g (bool[8] x) => (int64[8] y) {
        a = Constant<value = int64[1] {-1}>() m = Constant<value = int64 {-2}>() w = Where(x, a, a) y = Clip(w, m) }""",
    "mel_weights_in_a_row": """g () => (float[A] z) {
        a = Constant<value = int64 {8}>() b = Constant<value = int64 {32}>() c = Constant<value = int64 {8192}>()
        d = Constant<value = float {60.0}>() e = Constant<value = float {3000.0}>() y = MelWeightMatrix(a, b, c, d, e)
        r = Constant<value = int64[1] {-1}>() z = Reshape(y, r) }""",
    "rows_without_elements_are_counted": """g (int64 n, float[3, 0] x) => (float[A, 3, 0] y) {
        t = Constant<value = bool {1}>()
        s, y = Loop<body = b (int64 i, bool c, float[3, 0] u) => (bool d, float[3, 0] v, float[3, 0] z) {
            k = Constant<value = int64 {2}>() d = Less(i, k) v = Tanh(u) z = Neg(u) }>(n, t, x) }""",
    "rounds_over_nothing_are_counted": """g (int64 n, float[0] x) => (float[0] s, float[A, 1] y) {
        t = Constant<value = bool {1}>() one = Constant<value = float[1] {1.0}>()
        s, z = Loop<body = b (int64 i, bool c, float[0] u) => (bool d, float[0] v, bool[1] w) {
            k = Constant<value = int64 {2}>() q = Constant<value = int64[1] {1}>() d = Less(i, k) v = Identity(u)
            w = Reshape(c, q) }>(n, t, x)
        h = Shape(z) y = Expand(one, h) }""",
    "rows_of_a_folded_loop": """g () => (int64[A] y) {
        n = Constant<value = int64 {2}>() t = Constant<value = bool {1}>()
        y = Loop<body = b (int64 i, bool c) => (bool d, int64 z) { d = Identity(c) z = Identity(i) }>(n, t) }""",
    "sums_beside_a_position": """g (float[3, 70] x) => (int64[3] y, float[3] z) {
        k = Constant<value = int64[1] {1}>() y = ArgMin<axis = 1, keepdims = 0>(x)
        a = ReduceSum<keepdims = 0>(x, k) b = ReduceMin<keepdims = 0>(x, k) z = Mul(a, b) }""",
    "uneven_parts_known_at_run_time": """g (int64[2] x, float[3, 5] w) => (float[A, B] y) {
        zero = Constant<value = int64[1] {0}>() q = ReduceSum<keepdims = 1>(x, zero) p = Sub(q, q)
        four = Constant<value = int64[1] {4}>() one = Constant<value = int64[1] {1}>()
        a = Add(p, four) b = Add(p, one) s = Concat<axis = 0>(b, a) u, v = Split<axis = 1>(w, s)
        t = Transpose<perm = [1, 0]>(u) k = Constant<value = float[3, 2] {1., 2., 3., 4., 5., 6.}>()
        y = MatMul(t, k) }""",
    "lines_of_all_channels_and_of_one": """g (float[2, 3, 13, 17] x) => (float[2, 3, 7, 1] y) {
        w = Constant<value = float[9, 1] {1., 2., -3., 4., 5., -6., 7., 8., 9.}>()
        p = MaxPool<kernel_shape = [3, 2], pads = [1, 0, 1, 1], strides = [2, 2]>(x) y = MatMul(p, w) }""",
    "taps_that_meet_only_padding": """g (float[3, 16, 1] x, float[16] b) => (float[3, 16, 1] y) {
        w = Constant<value = float[16, 1, 2] {
            0., 1., 2., 3., 4., 5., 6., 0., 1., 2., 3., 4., 5., 6., 0., 1., 2., 3., 4., 5.,
            6., 0., 1., 2., 3., 4., 5., 6., 0., 1., 2., 3.}>()
        y = Conv<group = 16, dilations = [2], pads = [1, 1]>(x, w, b) }""",
    "unique_rows_of_a_matrix": """g (int32[7, 3] x) => (int32[A] y, int64[7] z) {
        k = Constant<value = int64[1] {1}>() u, p, z = Unique<axis = 0>(x) y = ReduceSum<keepdims = 0>(u, k) }""",
    "a_vector_times_itself": "g (float[16] x) => (float y) { y = MatMul(x, x) }",
    "padding_of_axes_known_at_run_time": """g (float[5, 7] x, int64[1] a) => (float[A, B] y) {
        p = Constant<value = int64[2] {2, 1}>() v = Constant<value = float {0.5}>() y = Pad(x, p, v, a) }""",
    "sizes_rounded_up_in_a_reshape": """g (float[1, 1, N, 3] x, float[2, 1, 2, 2] w) => (float[A] y) {
        c = Conv<auto_pad = "SAME_UPPER", strides = [2, 1]>(x, w)
        r = Constant<value = int64[1] {-1}>() y = Reshape(c, r) }""",
    "supports_far_from_the_origin": """g (float[4, 2] x) => (float[4, 1] y) {
        c = Constant<value = float[2] {30000.0, 40000.0}>() z = Add(x, c)
        y = ai.onnx.ml.SVMRegressor<kernel_type = "RBF", n_supports = 2, coefficients = [0.5, -1.0],
            kernel_params = [0.4, 0.0, 0.0], rho = [0.3],
            support_vectors = [30000.0, 40000.0, 30001.0, 40001.0]>(z) }""",
    "numbers_below_zero_in_a_row": """g (float[N] x) => (bool[A, B] y) {
        m = Constant<value = int64[2, 3] {-4, 8, 5, -4, 6, -2}>() first = Constant<value = int64[1] {0}>()
        k = Constant<value = int64[2] {3, 3}>() r = ReduceMin<keepdims = 0>(m, first) v = Concat<axis = -1>(r, k)
        y = Scan<num_scan_inputs = 1, body = b (float t) => (bool[C] w) {
            two = Constant<value = int64[1] {-2}>() w = Equal(v, two) }>(x) }""",
    "expanded_by_data_twice": """g (float[2, 1, 5] x, float[5, 2] w, int64[2] t) => (float[A, B, C] y) {
        one = Constant<value = int64[2] {1, 1}>() p = Max(t, one) s = Min(p, one)
        k = Constant<value = int64[3] {1, 3, 1}>() a = Expand(x, s) b = Expand(a, k) y = MatMul(b, w) }""",
    "moved_to_where_it_is": """g (float[6] x, float[1, 3, N, 1] z) => (float[A, B, C, D] y) {
        i = Constant<value = int64[1, 3, 1, 1] {0, -1, 0}>() p = Constant<value = int64[8] {0, 1, 0, 0, 0, 2, 0, 0}>()
        k = Constant<value = float {3.0}>() o = Constant<value = float {0.0}>() s = Constant<value = float {6.0}>()
        a = Mul(x, z) b = GlobalAveragePool(a) c = GatherElements<axis = 3>(b, i) d = Pad<mode = "edge">(c, p)
        e = Add(d, k) f = Clip(e, o, s) h = Mul(d, f) y = Div(h, s) }""",
    "a_range_of_one": """g (float a, float b) => (float[1] y) {
        r = Range(a, b, b) c = Concat<axis = 0>(r) i = Constant<value = int64[1] {1}>() y = Reshape(c, i) }""",
}
