// FloatMath in the compiler's own vectors (a GCC and Clang extension), for any register width. Included once
// per instruction set inside that set's namespace (no include guard, on purpose).

template <int Lanes, int Vectors, int Registers>
struct FloatVectors {
  using Input = float;
  using Weight = float;
  using Sum = float;
  typedef float Vector __attribute__((vector_size(4 * Lanes)));
  typedef float Memory __attribute__((vector_size(4 * Lanes), aligned(4), may_alias));
  static constexpr int kLanes = Lanes, kDepth = 1, kVectors = Vectors, kRegisters = Registers;

  static Vector load(const float* p) { return *reinterpret_cast<const Memory*>(p); }
  static Vector load_weights(const float* p) { return load(p); }
  static void store(float* p, Vector v) { *reinterpret_cast<Memory*>(p) = v; }
  static Vector splat(const float* p) { return *p - Vector{}; }
  // Contracted into a fused multiply-add where there is one.
  static Vector multiply_add(Vector sum, Vector value, Vector weights) { return sum + value * weights; }
};
