// Makes operator new fail on demand, in the whole test program.

#pragma once

namespace limited_memory {

// How many allocations succeed from now on; -1: all.
void allow(int num_allocations);

}  // namespace limited_memory
