// Arrays that begin at a line of the cache: whole vectors of 64 bytes then lie in one, not in two.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace {

constexpr size_t CACHE_LINE = 64;

template <class T> struct LineAllocator {
    typedef T value_type;

    LineAllocator() = default;
    template <class Other> LineAllocator(const LineAllocator<Other>&) {}

    T* allocate(size_t count) {
        return (T*)::operator new(count * sizeof(T), std::align_val_t(CACHE_LINE));
    }
    void deallocate(T* from, size_t) { ::operator delete(from, std::align_val_t(CACHE_LINE)); }

    template <class Other> bool operator==(const LineAllocator<Other>&) const { return true; }
    template <class Other> bool operator!=(const LineAllocator<Other>&) const { return false; }
};

template <class T> using Lines = std::vector<T, LineAllocator<T>>;

}  // namespace
