// Log-Mel and chroma on a GPU: the kernel around the phases of cuda_block.h, its launch, and the tables it reads.

#include <assert.h>
#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

#include <exception>
#include <list>
#include <mutex>
#include <new>

#include "arguments.h"
#include "cuda_call.h"
#include "framing.h"

namespace duotok {
namespace {

#define DUOTOK_PHASE __device__ __forceinline__
#define DUOTOK_UNROLL _Pragma("unroll")
#define DUOTOK_NO_UNROLL _Pragma("unroll 1")
#include "cuda_block.h"

struct DeviceThreads {
    Registers own;

    template <class Phase>
    __device__ __forceinline__ void operator()(Phase phase) {
        phase(threadIdx.x, own);
        __syncthreads();
    }
};

// 64 registers for each thread, so that 32 warps live on a multiprocessor.
template <int kPoints>
__global__ void __launch_bounds__(Sizes<kPoints>::kThreads, 1024 / Sizes<kPoints>::kThreads)
    mel_chroma_kernel(const __grid_constant__ CudaCall call, int64_t first_clip) {
    extern __shared__ __align__(16) float shared[];
    DeviceThreads threads;
    run_block<kPoints>(call, first_clip + blockIdx.y, int64_t(blockIdx.x) * Sizes<kPoints>::kFrames, shared, threads);
}

struct CudaFailure {
    const char *function;
    cudaError_t error;
};

#define DUOTOK_CUDA(function, ...) \
    if (const cudaError_t error = function(__VA_ARGS__)) throw CudaFailure { #function, error }

const char *remedy(cudaError_t error) {
    switch (error) {
        case cudaErrorInsufficientDriver:
        case cudaErrorNoDevice: return "install or update the NVIDIA driver, or compute on the CPU";
        case cudaErrorInvalidDevice: return "pass the index of a device that there is";
        case cudaErrorMemoryAllocation: return "free memory of the device";
        case cudaErrorNoKernelImageForDevice: return "compute on the CPU: it is built for compute capability 8.0 and newer";
        case cudaErrorStreamCaptureUnsupported:
        case cudaErrorStreamCaptureImplicit: return "call once with the same window and banks before capturing";
        default: return "look for the fault in earlier work with CUDA_LAUNCH_BLOCKING=1";
    }
}

// Makes a device current for as long as it lives.
class CurrentDevice {
public:
    explicit CurrentDevice(int device) : device_(device) {
        DUOTOK_CUDA(cudaGetDevice, &previous_);
        if (device_ != previous_) DUOTOK_CUDA(cudaSetDevice, device_);
    }
    ~CurrentDevice() {
        if (device_ != previous_) cudaSetDevice(previous_);
    }
    CurrentDevice(const CurrentDevice &) = delete;
    CurrentDevice &operator=(const CurrentDevice &) = delete;

private:
    int device_, previous_ = 0;
};

// Copies of tables on devices, the last used first.
class DeviceTables {
public:
    // Held from get() until the kernel that reads the copy is launched: the copy may be freed later.
    std::mutex mutex;

    // The copy on the current device, made if there is none.
    const char *get(const PackedTables &tables, int device, cudaStream_t stream) {
        int on_device = 0;
        auto oldest = copies_.end();
        for (auto copy = copies_.begin(); copy != copies_.end(); ++copy) {
            if (copy->device != device) continue;
            if (copy->bytes == tables.bytes()) {
                copies_.splice(copies_.begin(), copies_, copy);
                return copies_.front().data;
            }
            ++on_device;
            oldest = copy;
        }
        if (on_device == kMaxCopies) {
            DUOTOK_CUDA(cudaDeviceSynchronize);  // kernels may be reading it
            DUOTOK_CUDA(cudaFree, oldest->data);
            copies_.erase(oldest);
        }
        copies_.push_front({device, tables.bytes(), nullptr});
        try {
            upload(copies_.front(), stream);
        } catch (const CudaFailure &) {
            cudaFree(copies_.front().data);
            copies_.pop_front();
            throw;
        }
        return copies_.front().data;
    }

private:
    static constexpr int kMaxCopies = 32;

    struct Copy {
        int device;
        std::vector<char> bytes;
        char *data;
    };

    // Waits, so that any stream may read the copy from now on.
    static void upload(Copy &copy, cudaStream_t stream) {
        DUOTOK_CUDA(cudaMalloc, reinterpret_cast<void **>(&copy.data), copy.bytes.size());
        DUOTOK_CUDA(cudaMemcpyAsync, copy.data, copy.bytes.data(), copy.bytes.size(), cudaMemcpyHostToDevice, stream);
        DUOTOK_CUDA(cudaStreamSynchronize, stream);
    }

    std::list<Copy> copies_;
};

// Never destroyed: the CUDA runtime may be gone before it when the process ends.
DeviceTables &device_tables() {
    static DeviceTables &tables = *new DeviceTables;
    return tables;
}

constexpr int64_t kMaxGridX = 2147483647, kMaxGridY = 65535;

template <int kPoints>
void launch(CudaCall call, int64_t batch, cudaStream_t stream) {
    using S = Sizes<kPoints>;
    const auto kernel = reinterpret_cast<const void *>(mel_chroma_kernel<kPoints>);
    constexpr int kSharedBytes = S::kSharedFloats * sizeof(float);
    const int64_t blocks = (call.frames + S::kFrames - 1) / S::kFrames;
    if (blocks > kMaxGridX) throw CudaFailure{"a grid of so many frames", cudaErrorInvalidConfiguration};
    // Beyond 48 KiB a kernel must ask.
    if (kSharedBytes > 48 * 1024)
        DUOTOK_CUDA(cudaFuncSetAttribute, kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
    for (int64_t first_clip = 0; first_clip < batch; first_clip += kMaxGridY) {
        const dim3 grid(unsigned(blocks), unsigned(batch - first_clip < kMaxGridY ? batch - first_clip : kMaxGridY));
        void *arguments[] = {&call, &first_clip};
        DUOTOK_CUDA(cudaLaunchKernel, kernel, grid, dim3(S::kThreads), arguments, kSharedBytes, stream);
    }
}

void mel_chroma_cuda(const duotok_mel_chroma_args &args, int device, cudaStream_t stream) {
    const PackedTables tables(args);
    const CurrentDevice current(device);
    const std::lock_guard<std::mutex> lock(device_tables().mutex);
    const CudaCall call = tables.call(args, device_tables().get(tables, device, stream));
    switch (args.n_fft) {
        case 256: return launch<128>(call, args.batch, stream);
        case 512: return launch<256>(call, args.batch, stream);
        case 1024: return launch<512>(call, args.batch, stream);
        case 2048: return launch<1024>(call, args.batch, stream);
        default: return launch<2048>(call, args.batch, stream);
    }
}

}  // namespace
}  // namespace duotok

extern "C" {

int32_t duotok_abi_version(void) { return DUOTOK_ABI_VERSION; }

const char *duotok_last_error(void) { return duotok::last_error(); }

int32_t duotok_mel_chroma_cuda(const duotok_mel_chroma_args *args, int32_t device, void *stream) {
    if (const int32_t status = duotok::check(args, false)) return status;
    if (!args->batch || !duotok::num_frames(args->samples, args->pad, args->n_fft, args->hop)) return DUOTOK_OK;
    try {
        duotok::mel_chroma_cuda(*args, device, static_cast<cudaStream_t>(stream));
        return DUOTOK_OK;
    } catch (const duotok::CudaFailure &failure) {
        const int32_t status = failure.error == cudaErrorMemoryAllocation ? DUOTOK_OUT_OF_MEMORY : DUOTOK_CUDA_ERROR;
        return duotok::fail(
            status, "expected %s to succeed on device %d; got %s (%s); %s", failure.function, device,
            cudaGetErrorName(failure.error), cudaGetErrorString(failure.error), duotok::remedy(failure.error));
    } catch (const std::bad_alloc &) {
        return duotok::fail(DUOTOK_OUT_OF_MEMORY, "expected memory of the host for the tables of a call; got none");
    } catch (const std::exception &error) {
        return duotok::fail(DUOTOK_SYSTEM_ERROR, "expected the system to serve; got: %.200s", error.what());
    }
}

}  // extern "C"
