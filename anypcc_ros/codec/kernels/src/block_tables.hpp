// A node's children and all neighbours of these lie in a block of 4 x 4 x 4 cells, of which the node itself is the middle
// 2 x 2 x 2: cell 16 x + 4 y + z, with x, y, z in 0 .. 3. A child at octant (bx, by, bz) sees the cells from 16 bx + 4 by + bz
// on, 3 x 3 x 3 of them. Included once per instruction set inside that set's namespace (no include guard, on purpose).

struct BlockTables {
  uint8_t rank[256][8];  // children of a node with this occupancy code that come before octant o
  uint8_t inside[27];    // octants of the neighbour at offset k that lie in the block
  uint8_t turn[27];      // by how much its octants as bits 16 bx + 4 by + bz are rotated to the left to be cells of it
  uint64_t spread[256];  // such bits of an occupancy code
  uint64_t bytes[256];   // a byte for each bit of a byte, the lowest first

  constexpr BlockTables() : rank(), inside(), turn(), spread(), bytes() {
    for (int code = 0; code < 256; ++code) {
      for (int o = 0; o < 8; ++o) {
        if (o > 0) rank[code][o] = static_cast<uint8_t>(rank[code][o - 1] + (code >> (o - 1) & 1));
        bytes[code] |= static_cast<uint64_t>(code >> o & 1) << (8 * o);
        spread[code] |= static_cast<uint64_t>(code >> o & 1) << (16 * (o >> 2) + 4 * (o >> 1 & 1) + (o & 1));
      }
    }
    for (int k = 0; k < 27; ++k) {
      const int low_x = 2 * (k / 9) - 1, low_y = 2 * (k / 3 % 3) - 1, low_z = 2 * (k % 3) - 1;
      turn[k] = static_cast<uint8_t>((16 * low_x + 4 * low_y + low_z + 64) % 64);
      for (int o = 0; o < 8; ++o) {
        const int x = low_x + (o >> 2), y = low_y + (o >> 1 & 1), z = low_z + (o & 1);
        if (x >= 0 && x <= 3 && y >= 0 && y <= 3 && z >= 0 && z <= 3) inside[k] = static_cast<uint8_t>(inside[k] | 1 << o);
      }
    }
  }

  // The cells that are children of the neighbour at offset k.
  uint64_t cells(int k, unsigned code) const {
    const uint64_t bits = spread[code & inside[k]];
    return bits << turn[k] | bits >> ((64 - turn[k]) & 63);
  }
};

constexpr BlockTables kBlockTables;

constexpr uint64_t kSeen = 0x0777'0777'0777;      // cells that a child at octant 0 sees
constexpr uint64_t kOwn = uint64_t{1} << 21;      // and its own

