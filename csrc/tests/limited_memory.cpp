#include "limited_memory.h"

#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

int num_left = -1;

void *allocate(size_t size) noexcept {
    if (num_left == 0)
        return nullptr;
    if (num_left > 0)  // no write where nothing is limited: threads allocate too
        --num_left;
    return std::malloc(size);
}

}  // namespace

void limited_memory::allow(int num_allocations) {
    num_left = num_allocations;
}

void *operator new(size_t size) {
    if (void *memory = allocate(size))
        return memory;
    throw std::bad_alloc();
}
void *operator new(size_t size, const std::nothrow_t &) noexcept {
    return allocate(size);
}
void operator delete(void *memory) noexcept {
    std::free(memory);
}
void operator delete(void *memory, size_t) noexcept {
    std::free(memory);
}
