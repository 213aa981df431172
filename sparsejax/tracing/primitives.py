"""Families of primitives by name: what the passes of the tracer treat alike."""


def names(text: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(text.split())


# One operand in, one result of the same shape, that does not change what the elements are.
SAME = names("""
    convert_element_type copy copy_p stop_gradient reduce_precision device_put
    sharding_constraint name reshard
""")
# Elementwise functions f of one operand with f(0) = 0 ...
UNARY_ZERO = SAME | names("""
    neg sin tan tanh asin atan sinh asinh atanh sign floor ceil round abs sqrt cbrt square erf expm1 log1p
    real imag conj integer_pow population_count bitcast_convert_type
""")
# ... and with f(0) ≠ 0.
UNARY_OTHER = names("""
    exp exp2 log logistic rsqrt cos cosh acos acosh erfc erf_inv lgamma digamma not is_finite clz
    bessel_i0e bessel_i1e
""")
UNARY = UNARY_ZERO | UNARY_OTHER
# Elementwise in several operands; scalars, and axes of size one, are broadcast to full shapes.
NARY = names("""
    add sub mul div rem max min pow atan2 nextafter eq ne lt le gt ge and or xor select_n clamp add_any
    shift_left shift_right_logical shift_right_arithmetic complex igamma igammac polygamma zeta
    regularized_incomplete_beta eq_to le_to lt_to
""")
ELEMENTWISE = UNARY | NARY
REDUCE = names("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin")
CUMULATIVE = names("cumsum cumprod cummax cummin cumlogsumexp")
WINDOWS = names("reduce_window_sum reduce_window_max reduce_window_min")
SCATTER = names("scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max")
# Products in which a mask or a scale is applied to a weight.
SCALING = names("mul div select_n and")
