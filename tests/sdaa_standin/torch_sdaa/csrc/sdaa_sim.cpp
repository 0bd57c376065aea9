// A PrivateUse1 device for tests whose memory is host memory and whose kernels
// are PyTorch's CPU kernels, reached without copying: every sdaa storage is
// lent to the CPU op as a CPU storage over the same bytes, and storages made by
// the CPU op are adopted as sdaa storages.
#include "sdaa_sim.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/NativeFunctions.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <torch/version.h>

// Interfaces grew: 2.9 brought DeviceAllocator (torch.accelerator.memory_*).
#define SIM_TORCH (TORCH_VERSION_MAJOR * 100 + TORCH_VERSION_MINOR)
#if SIM_TORCH >= 209
#include <c10/core/CachingDeviceAllocator.h>
#define SIM_ALLOCATOR c10::DeviceAllocator
#else
#define SIM_ALLOCATOR c10::Allocator
#endif

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace sdaa_sim {

using at::IValue;
using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::Storage;

constexpr int kMaxDevices = 8;
constexpr size_t kTotal = size_t(16) << 30; // a SPA of the real card

// ---------------------------------------------------------------- device ----

namespace {

thread_local DeviceIndex tls_device = 0;

long env_int(const char* name, long dflt) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtol(text, nullptr, 10) : dflt;
}

void check_index(DeviceIndex i) {
  TORCH_CHECK(
      i >= 0 && i < device_count(),
      "SDAA error: invalid device ordinal ", static_cast<int>(i),
      " (", static_cast<int>(device_count()), " visible)");
}

} // namespace

DeviceIndex device_count() noexcept {
  static const long n = [] {
    long v = env_int("SDAA_SIM_DEVICE_COUNT", 4);
    return v < 0 ? 0L : (v > kMaxDevices ? long(kMaxDevices) : v);
  }();
  return static_cast<DeviceIndex>(n);
}

DeviceIndex current_device() noexcept {
  return tls_device;
}

static DeviceIndex swap_device(DeviceIndex to) {
  DeviceIndex was = tls_device;
  if (to >= 0) {
    check_index(to);
    tls_device = to;
  }
  return was;
}

// ---------------------------------------------------------------- memory ----

namespace {

struct Meter {
  std::atomic<int64_t> now{0}, peak{0}, total{0}, blocks{0};
};
std::array<Meter, kMaxDevices> g_meters;

// Bytes of a device; 0 for no limit.
std::atomic<int64_t> g_limit{env_int("SDAA_SIM_MEMORY_LIMIT", 0)};
std::atomic<bool> g_torch_error{false};

// The vendor raises a plain RuntimeError with these words; torch's own type is
// what other devices raise, and a later release may.
void refuse(size_t n, int64_t in_use) {
  const auto said = c10::str(
      "sdaa out of memory. Tried to allocate ", n, " bytes (", in_use,
      " bytes of ", g_limit.load(), " in use)");
  if (g_torch_error) {
    TORCH_CHECK_WITH(OutOfMemoryError, false, said);
  }
  TORCH_CHECK(false, said);
}

void meter_add(DeviceIndex i, size_t n) {
  auto& m = g_meters[i];
  int64_t after = m.now.load() + static_cast<int64_t>(n);
  if (g_limit > 0 && after > g_limit) {
    refuse(n, m.now.load());
  }
  after = (m.now += static_cast<int64_t>(n));
  m.total += static_cast<int64_t>(n);
  m.blocks += 1;
  int64_t seen = m.peak.load();
  while (after > seen && !m.peak.compare_exchange_weak(seen, after)) {
  }
}

void meter_sub(DeviceIndex i, size_t n) {
  g_meters[i].now -= static_cast<int64_t>(n);
  g_meters[i].blocks -= 1;
}

// The context of an sdaa DataPtr: either owns raw memory or an adopted CPU
// storage.
struct Block {
  void* raw;
  Storage adopted;
  size_t nbytes;
  DeviceIndex index;
};

void free_block(void* ctx) {
  auto* b = static_cast<Block*>(ctx);
  meter_sub(b->index, b->nbytes);
  if (b->raw) {
    c10::free_cpu(b->raw);
  }
  delete b;
}

class DeviceMemory final : public SIM_ALLOCATOR {
 public:
  c10::DataPtr allocate(size_t n) override {
    DeviceIndex i = current_device();
    check_index(i);
    meter_add(i, n);
    void* raw = n ? c10::alloc_cpu(n) : nullptr;
    if (raw) {
      std::memset(raw, 0xff, n); // NaN in every floating dtype: nobody may
    } // count on what fresh memory holds
    return {raw, new Block{raw, Storage(), n, i}, &free_block, Device(kSdaa, i)};
  }
  void copy_data(void* dst, const void* src, size_t n) const override {
    default_copy_data(dst, src, n);
  }

#if SIM_TORCH >= 209
  bool initialized() override {
    return true;
  }
  void emptyCache(c10::MempoolId_t = {0, 0}) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(
      DeviceIndex i) override {
    check_index(i);
    c10::CachingDeviceAllocator::DeviceStats out;
    auto& m = g_meters[i];
    for (auto* arr : {&out.allocated_bytes, &out.reserved_bytes,
                      &out.active_bytes, &out.requested_bytes}) {
      auto& s = (*arr)[0];
      s.current = m.now.load();
      s.peak = m.peak.load();
      s.allocated = m.total.load();
      s.freed = m.total.load() - m.now.load();
    }
    return out;
  }
  void resetAccumulatedStats(DeviceIndex i) override {
    check_index(i);
    g_meters[i].total = g_meters[i].now.load();
  }
#endif
  void resetPeakStats(DeviceIndex i) { // overrides, from 2.9
    check_index(i);
    g_meters[i].peak = g_meters[i].now.load();
  }
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex i) { // overrides, from 2.10
    check_index(i);
    size_t total = g_limit > 0 ? static_cast<size_t>(g_limit) : kTotal;
    size_t used = static_cast<size_t>(g_meters[i].now.load());
    return {used < total ? total - used : 0, total};
  }
};

DeviceMemory* device_memory() {
  static auto* a = new DeviceMemory();
  return a;
}

// Host memory that answers is_pinned() == True: DistributedDataParallel asks
// for it and checks that it has it.
class PinnedMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t n) override {
    void* raw = c10::alloc_cpu(n ? n : 1);
    {
      std::lock_guard<std::mutex> hold(mutex_);
      spans_[reinterpret_cast<uintptr_t>(raw)] = n ? n : 1;
    }
    return {raw, raw, &release, Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &release;
  }
  void copy_data(void* dst, const void* src, size_t n) const override {
    default_copy_data(dst, src, n);
  }
  bool holds(const void* p) const {
    auto at = reinterpret_cast<uintptr_t>(p);
    std::lock_guard<std::mutex> hold(mutex_);
    auto it = spans_.upper_bound(at);
    if (it == spans_.begin()) {
      return false;
    }
    --it;
    return at < it->first + it->second;
  }
  static PinnedMemory* get() {
    static auto* a = new PinnedMemory();
    return a;
  }

 private:
  static void release(void* p) {
    auto* self = get();
    {
      std::lock_guard<std::mutex> hold(self->mutex_);
      self->spans_.erase(reinterpret_cast<uintptr_t>(p));
    }
    c10::free_cpu(p);
  }
  mutable std::mutex mutex_;
  std::map<uintptr_t, size_t> spans_;
};

} // namespace

// ------------------------------------------------------------- generator ----

// Mersenne-Twister stream of the CPU, kept apart from the CPU's own default
// stream, as a real accelerator's would be.
class SimGenerator final : public c10::GeneratorImpl {
 public:
  explicit SimGenerator(DeviceIndex i)
      : GeneratorImpl(Device(kSdaa, i), DispatchKeySet(DispatchKey::PrivateUse1)),
        inner_(at::detail::createCPUGenerator()) {}

  at::Generator inner() const {
    return inner_;
  }
  void set_current_seed(uint64_t s) override {
    inner_.set_current_seed(s);
  }
  uint64_t current_seed() const override {
    return inner_.current_seed();
  }
  uint64_t seed() override {
    return inner_.seed();
  }
  void set_offset(uint64_t) override {
    TORCH_CHECK(false, "the simulated sdaa generator has no offset");
  }
  uint64_t get_offset() const override {
    TORCH_CHECK(false, "the simulated sdaa generator has no offset");
  }
  void set_state(const c10::TensorImpl& s) override {
    inner_.unsafeGetGeneratorImpl()->set_state(s);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return inner_.unsafeGetGeneratorImpl()->get_state();
  }

 private:
  SimGenerator* clone_impl() const override {
    auto* c = new SimGenerator(device().index());
    c->inner_ = inner_.clone();
    return c;
  }
  at::Generator inner_;
};

static const at::Generator& default_generator(DeviceIndex i) {
  static const std::vector<at::Generator> all = [] {
    std::vector<at::Generator> v;
    for (int k = 0; k < kMaxDevices; ++k) {
      v.push_back(at::make_generator<SimGenerator>(static_cast<DeviceIndex>(k)));
    }
    return v;
  }();
  if (i < 0) {
    i = current_device();
  }
  check_index(i);
  return all[i];
}

// ---------------------------------------------------------- guard, hooks ----

struct SimEvent {
  std::chrono::steady_clock::time_point when;
};

struct SimGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kSdaa;
  }
  Device exchangeDevice(Device d) const override {
    return Device(kSdaa, swap_device(d.index()));
  }
  Device getDevice() const override {
    return Device(kSdaa, current_device());
  }
  void setDevice(Device d) const override {
    swap_device(d.index());
  }
  void uncheckedSetDevice(Device d) const noexcept override {
    if (d.index() >= 0) {
      tls_device = d.index();
    }
  }
  // Everything runs at once on the calling thread: one stream a device.
  c10::Stream getStream(Device d) const noexcept override {
    return stream_of(d);
  }
  c10::Stream getDefaultStream(Device d) const override {
    return stream_of(d);
  }
  c10::Stream getStreamFromGlobalPool(Device d, bool = false) const override {
    return pool_stream(d);
  }
  c10::Stream getNewStream(Device d, int = 0) const {
    return pool_stream(d);
  }
  c10::Stream exchangeStream(c10::Stream s) const noexcept override {
    auto i = s.device_index();
    auto was = tls_stream[i];
    tls_stream[i] = s.id();
    return c10::Stream(c10::Stream::UNSAFE, Device(kSdaa, i), was);
  }
  DeviceIndex deviceCount() const noexcept override {
    return device_count();
  }
  void record(void** event, const c10::Stream&, const DeviceIndex,
              const c10::EventFlag) const override {
    if (!*event) {
      *event = new SimEvent();
    }
    static_cast<SimEvent*>(*event)->when = std::chrono::steady_clock::now();
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override {
    delete static_cast<SimEvent*>(event);
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override {
    return true;
  }
  bool queryStream(const c10::Stream&) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream&) const override {}
  // Newer interfaces only, hence without `override`.
  void synchronizeEvent(void*) const {}
  void synchronizeDevice(const DeviceIndex) const {}
  double elapsedTime(void* a, void* b, const DeviceIndex) const {
    TORCH_CHECK(a && b, "both events must be recorded");
    auto gap = static_cast<SimEvent*>(b)->when - static_cast<SimEvent*>(a)->when;
    return std::chrono::duration<double, std::milli>(gap).count();
  }

 private:
  static thread_local std::array<c10::StreamId, kMaxDevices> tls_stream;
  static c10::Stream stream_of(Device d) {
    auto i = d.index() < 0 ? current_device() : d.index();
    return c10::Stream(c10::Stream::UNSAFE, Device(kSdaa, i), tls_stream[i]);
  }
  static c10::Stream pool_stream(Device d) {
    static std::atomic<int64_t> next{1};
    auto i = d.index() < 0 ? current_device() : d.index();
    return c10::Stream(c10::Stream::UNSAFE, Device(kSdaa, i), next++);
  }
};
thread_local std::array<c10::StreamId, kMaxDevices> SimGuard::tls_stream{};

C10_REGISTER_GUARD_IMPL(PrivateUse1, SimGuard)

// Unmarked overrides: older interfaces lack them, so `override` would not build.
struct SimHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const {
    return true;
  }
  bool isAvailable() const {
    return device_count() > 0;
  }
  bool hasPrimaryContext(DeviceIndex) const override {
    return true;
  }
  void init() const {}
  const at::Generator& getDefaultGenerator(DeviceIndex i) const {
    return default_generator(i);
  }
  at::Generator getNewGenerator(DeviceIndex i = -1) const {
    return at::make_generator<SimGenerator>(i < 0 ? current_device() : i);
  }
  Device getDeviceFromPtr(void*) const {
    return Device(kSdaa, current_device());
  }
  bool isPinnedPtr(const void* p) const {
    return PinnedMemory::get()->holds(p);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return PinnedMemory::get();
  }
  void resizePrivateUse1Bytes(const Storage& s, size_t n) const override {
    auto* impl = s.unsafeGetStorageImpl();
    auto was = swap_device(impl->device().index());
    auto fresh = device_memory()->allocate(n);
    swap_device(was);
    if (auto keep = std::min(n, impl->nbytes())) {
      std::memcpy(fresh.get(), impl->data(), keep);
    }
    impl->set_data_ptr_noswap(std::move(fresh));
    impl->set_nbytes(n);
  }
  // Newer interfaces only.
  DeviceIndex deviceCount() const {
    return device_count();
  }
  void setCurrentDevice(DeviceIndex i) const {
    swap_device(i);
  }
  DeviceIndex getCurrentDevice() const {
    return current_device();
  }
  DeviceIndex exchangeDevice(DeviceIndex i) const {
    return swap_device(i);
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex i) const {
    return swap_device(i);
  }
};

// ---------------------------------------------------- lending to the CPU ----

namespace {

struct Lender {
  // One CPU twin a tensor and one CPU storage a storage, so that aliasing
  // between arguments stays what it was.
  std::vector<std::pair<Tensor, Tensor>> tensors;
  std::vector<std::pair<Storage, Storage>> storages;
  std::optional<Device> where;

  void meet(const Device& d, const char* op) {
    if (!where) {
      where = d;
    }
    TORCH_CHECK(
        *where == d, "Expected all tensors to be on the same device, but found "
        "at least two devices, ", *where, " and ", d, "! (", op, ")");
  }

  Storage lend(const Storage& s) {
    for (auto& p : storages) {
      if (p.first.unsafeGetStorageImpl() == s.unsafeGetStorageImpl()) {
        return p.second;
      }
    }
    auto* keep = new Storage(s);
    Storage cpu(
        Storage::use_byte_size_t(), s.nbytes(),
        c10::DataPtr(
            s.mutable_data(), keep,
            [](void* p) { delete static_cast<Storage*>(p); },
            Device(c10::DeviceType::CPU)),
        c10::GetCPUAllocator(), /*resizable=*/true);
    storages.emplace_back(s, cpu);
    return cpu;
  }

  Tensor lend(const Tensor& t) {
    for (auto& p : tensors) {
      if (p.first.is_same(t)) {
        return p.second;
      }
    }
    Tensor cpu = at::detail::make_tensor<c10::TensorImpl>(
        lend(t.storage()), DispatchKeySet(DispatchKey::CPU), t.dtype());
    auto* impl = cpu.unsafeGetTensorImpl();
    impl->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
    if (t.unsafeGetTensorImpl()->is_wrapped_number()) {
      impl->set_wrapped_number(true);
    }
    cpu._set_conj(t.is_conj());
    cpu._set_neg(t.is_neg());
    tensors.emplace_back(t, cpu);
    return cpu;
  }

  Storage adopt(const Storage& cpu) {
    for (auto& p : storages) {
      if (p.second.unsafeGetStorageImpl() == cpu.unsafeGetStorageImpl()) {
        return p.first;
      }
    }
    auto i = where->index();
    meter_add(i, cpu.nbytes());
    Storage s(
        Storage::use_byte_size_t(), cpu.nbytes(),
        c10::DataPtr(
            cpu.mutable_data(), new Block{nullptr, cpu, cpu.nbytes(), i},
            &free_block, Device(kSdaa, i)),
        device_memory(), /*resizable=*/true);
    storages.emplace_back(s, cpu);
    return s;
  }

  Tensor adopt(const Tensor& cpu) {
    if (!cpu.defined() || !cpu.device().is_cpu()) {
      return cpu;
    }
    for (auto& p : tensors) {
      if (p.second.is_same(cpu)) {
        return p.first;
      }
    }
    TORCH_CHECK(cpu.layout() == c10::kStrided, "sdaa: only strided results");
    Tensor t = at::detail::make_tensor<c10::TensorImpl>(
        adopt(cpu.storage()), DispatchKeySet(DispatchKey::PrivateUse1),
        cpu.dtype());
    t.unsafeGetTensorImpl()->set_sizes_and_strides(
        cpu.sizes(), cpu.strides(), cpu.storage_offset());
    tensors.emplace_back(t, cpu);
    return t;
  }

  // An op may have resized an argument (out=, resize_): carry that over.
  void settle() {
    for (auto& p : storages) {
      auto* mine = p.first.unsafeGetStorageImpl();
      auto& cpu = p.second;
      if (mine->data() == cpu.data() && mine->nbytes() == cpu.nbytes()) {
        continue;
      }
      auto i = mine->device().index();
      meter_add(i, cpu.nbytes());
      mine->set_data_ptr_noswap(c10::DataPtr(
          cpu.mutable_data(), new Block{nullptr, cpu, cpu.nbytes(), i},
          &free_block, Device(kSdaa, i)));
      mine->set_nbytes(cpu.nbytes());
    }
    for (auto& p : tensors) {
      auto& mine = p.first;
      auto& cpu = p.second;
      if (mine.sizes() != cpu.sizes() || mine.strides() != cpu.strides() ||
          mine.storage_offset() != cpu.storage_offset()) {
        mine.unsafeGetTensorImpl()->set_sizes_and_strides(
            cpu.sizes(), cpu.strides(), cpu.storage_offset());
      }
    }
  }
};

bool is_sdaa(const Tensor& t) {
  return t.defined() && t.device().type() == kSdaa;
}

// ------------------------------------------------------------- accounting ----

std::mutex g_ops_mutex;
std::unordered_map<std::string, int64_t> g_ops_seen;
std::unordered_set<std::string> g_ops_blocked;
std::atomic<bool> g_count_ops{false}, g_any_blocked{false};

// `name` without its overload is what block_ops may give too.
void account(const std::string& full, const std::string& name) {
  std::lock_guard<std::mutex> hold(g_ops_mutex);
  if (g_count_ops) {
    ++g_ops_seen[full];
  }
  if (g_any_blocked &&
      (g_ops_blocked.count(full) || g_ops_blocked.count(name))) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false, "Could not run '", full, "' with arguments from the 'sdaa' "
        "backend.");
  }
}

void account(const c10::OperatorHandle& op) {
  if (g_count_ops || g_any_blocked) {
    const auto& n = op.operator_name();
    account(n.overload_name.empty() ? n.name : n.name + "." + n.overload_name,
            n.name);
  }
}

// Kernels that are called without their handle.
void account(const char* name) {
  if (g_count_ops || g_any_blocked) {
    account(name, name);
  }
}

// ---------------------------------------------------------- boxed fallback ----

// Ops whose CPU tensor arguments are legitimate beside device tensors.
bool mixes_devices(const std::string& name) {
  static const std::unordered_set<std::string> ok = {
      "aten::index", "aten::index_put", "aten::index_put_",
      "aten::_index_put_impl_", "aten::_pack_padded_sequence",
      "aten::_ctc_loss"};
  return ok.count(name) > 0;
}

void run_on_cpu(
    const c10::OperatorHandle& op,
    const c10::OperatorHandle& target,
    torch::jit::Stack* stack) {
  account(op);
  const auto& schema = op.schema();
  const std::string& name = op.operator_name().name;
  const auto n_args = schema.arguments().size();
  const auto first = stack->size() - n_args;
  Lender lender;

  auto take = [&](const Tensor& t) -> Tensor {
    if (is_sdaa(t)) {
      lender.meet(t.device(), name.c_str());
      return lender.lend(t);
    }
    TORCH_CHECK(
        !t.defined() || t.dim() == 0 || mixes_devices(name),
        "Expected all tensors to be on the same device, but found at least two "
        "devices, sdaa and ", t.device(), "! (", name, ")");
    return t;
  };

  std::vector<size_t> rng_slots;
  for (size_t k = 0; k < n_args; ++k) {
    IValue& v = (*stack)[first + k];
    const auto& arg = schema.arguments()[k];
    if (v.isTensor()) {
      v = take(v.toTensor());
    } else if (v.isTensorList()) {
      c10::List<Tensor> out;
      for (const Tensor& t : v.toTensorVector()) {
        out.push_back(take(t));
      }
      v = std::move(out);
    } else if (v.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> out;
      for (const auto& t : v.toOptionalTensorVector()) {
        out.push_back(t ? std::optional<Tensor>(take(*t)) : t);
      }
      v = std::move(out);
    } else if (v.isDevice()) {
      Device d = v.toDevice();
      if (d.type() == kSdaa) {
        lender.meet(
            Device(kSdaa, d.has_index() ? d.index() : current_device()),
            name.c_str());
        v = Device(c10::DeviceType::CPU);
      }
    } else if (v.isGenerator()) {
      at::Generator g = v.toGenerator();
      TORCH_CHECK(
          g.device().type() == kSdaa, "Expected a 'sdaa' device type for "
          "generator but found '", g.device().type(), "'");
      v = static_cast<SimGenerator*>(g.unsafeGetGeneratorImpl())->inner();
    } else if (v.isNone() && arg.name() == "generator") {
      rng_slots.push_back(first + k);
    }
  }
  if (!lender.where) {
    lender.where = Device(kSdaa, current_device());
  }
  for (size_t slot : rng_slots) {
    const auto& g = default_generator(lender.where->index());
    (*stack)[slot] =
        static_cast<SimGenerator*>(g.unsafeGetGeneratorImpl())->inner();
  }

  {
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    target.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  }
  lender.settle();

  const auto n_out = target.schema().returns().size();
  for (size_t k = stack->size() - n_out; k < stack->size(); ++k) {
    IValue& v = (*stack)[k];
    if (v.isTensor()) {
      v = lender.adopt(v.toTensor());
    } else if (v.isTensorList()) {
      c10::List<Tensor> out;
      for (const Tensor& t : v.toTensorVector()) {
        out.push_back(lender.adopt(t));
      }
      v = std::move(out);
    }
  }
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  run_on_cpu(op, op, stack);
}

c10::OperatorHandle find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

// For a device that is neither CPU nor CUDA, ATen picks the "overrideable"
// convolutions, which no backend but ours can have: hand them to the CPU's.
void conv_forward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  static const auto target = find_op("aten::convolution");
  run_on_cpu(op, target, stack);
}

std::tuple<Tensor, Tensor, Tensor> conv_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight,
    c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
    c10::SymIntArrayRef dilation, bool transposed,
    c10::SymIntArrayRef output_padding, c10::SymInt groups,
    std::array<bool, 3> mask) {
  static const auto self_op = find_op("aten::convolution_backward_overrideable");
  account(self_op);
  Lender lender;
  for (const Tensor* t : {&grad, &input, &weight}) {
    TORCH_CHECK(is_sdaa(*t), "conv backward: expected sdaa tensors");
    lender.meet(t->device(), "aten::convolution_backward");
  }
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  std::vector<c10::SymInt> bias_sizes{grad.sym_size(1)};
  auto out = at::convolution_backward_symint(
      lender.lend(grad), lender.lend(input), lender.lend(weight),
      c10::OptionalArrayRef<c10::SymInt>(bias_sizes), stride, padding, dilation,
      transposed, output_padding, groups, mask);
  return {lender.adopt(std::get<0>(out)), lender.adopt(std::get<1>(out)),
          lender.adopt(std::get<2>(out))};
}

// The CPU kernel of this one takes no generator argument and would draw from
// the CPU's default stream.
std::tuple<Tensor, Tensor> native_dropout(
    const Tensor& x, double p, std::optional<bool> train) {
  if (train.has_value() && !*train) {
    return {x.clone(), at::ones_like(x, x.options().dtype(at::kBool))};
  }
  Tensor keep = at::empty_like(x).bernoulli_(1 - p);
  Tensor y = p >= 1 ? x * 0 : x * keep * (1 / (1 - p));
  return {y, keep.to(at::kBool)};
}

#if SIM_TORCH < 207
// torch 2.4's CPU kernel leaves `out` as it was for 16-bit types (it assigns
// the handle instead of the memory).
Tensor& mean_out(
    const Tensor& x, c10::OptionalArrayRef<int64_t> dim, bool keepdim,
    std::optional<at::ScalarType> dtype, Tensor& out) {
  account("aten::mean.out");
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  cpu_view(out).copy_(at::mean(cpu_view(x), dim, keepdim, dtype));
  return out;
}
#endif

// ------------------------------------------------------ unboxed hot kernels ----

void record_stream(Tensor&, c10::Stream) {}

void on_device(std::optional<Device> d, std::optional<bool> pin) {
  TORCH_CHECK(!pin.value_or(false), "only dense CPU tensors can be pinned");
  (void)d;
}

Tensor empty_memory_format(
    c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<Device> device,
    std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
  on_device(device, pin);
  c10::DeviceGuard guard(device.value_or(Device(kSdaa)));
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), device_memory(),
      DispatchKeySet(DispatchKey::PrivateUse1), c10::dtype_or_default(dtype),
      format);
}

Tensor empty_strided(
    c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
    std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<Device> device, std::optional<bool> pin) {
  on_device(device, pin);
  c10::DeviceGuard guard(device.value_or(Device(kSdaa)));
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      device_memory(), DispatchKeySet(DispatchKey::PrivateUse1),
      c10::dtype_or_default(dtype));
}

Tensor as_strided(
    const Tensor& t, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
    std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(
      t, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset ? std::optional<int64_t>(offset->guard_int(__FILE__, __LINE__))
             : std::nullopt);
}

Tensor view(const Tensor& t, c10::SymIntArrayRef size) {
  return at::native::view(t, C10_AS_INTARRAYREF_SLOW(size));
}

Tensor reshape_alias(
    const Tensor& t, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(
      t, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

// Every transfer, in either direction and between devices.
Tensor copy_from(const Tensor& src, const Tensor& dst, bool /*non_blocking*/) {
  account(!is_sdaa(dst) ? "to host" : is_sdaa(src) ? "on device" : "to device");
  Tensor from = is_sdaa(src) ? cpu_view(src) : src;
  Tensor to = is_sdaa(dst) ? cpu_view(dst) : dst;
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  to.copy_(from);
  return dst;
}

Tensor copy_from_and_resize(const Tensor& src, const Tensor& dst) {
  dst.resize_(src.sizes());
  return copy_from(src, dst, false);
}

at::Scalar item(const Tensor& t) {
  account("_local_scalar_dense");
  return cpu_view(t).item();
}

Tensor& set_from_storage_at(
    Tensor& t, Storage s, c10::SymInt offset, c10::SymIntArrayRef size,
    c10::SymIntArrayRef stride) {
  TORCH_CHECK(
      s.device() == t.device() || s.nbytes() == 0,
      "cannot set a tensor on ", t.device(), " to a storage on ", s.device());
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  std::vector<int64_t> strides;
  if (stride.data() && stride.size() == size.size()) {
    auto given = C10_AS_INTARRAYREF_SLOW(stride);
    strides.assign(given.begin(), given.end());
  } else {
    strides.resize(sizes.size());
    int64_t step = 1;
    for (size_t k = sizes.size(); k-- > 0;) {
      strides[k] = step;
      step *= std::max<int64_t>(sizes[k], 1);
    }
  }
  int64_t off = offset.guard_int(__FILE__, __LINE__);
  auto need = at::detail::computeStorageNbytes(
      sizes, strides, t.dtype().itemsize(), off);
  if (need > s.nbytes()) {
    at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(s, need);
  }
  auto* impl = t.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(s));
  impl->set_sizes_and_strides(sizes, strides, off);
  return t;
}

Tensor& set_from_storage(Tensor& t, Storage s) {
  int64_t n = static_cast<int64_t>(s.nbytes() / t.dtype().itemsize());
  c10::SymInt size[1] = {n}, stride[1] = {1};
  return set_from_storage_at(t, std::move(s), 0, size, stride);
}

Tensor& set_from_tensor(Tensor& t, const Tensor& src) {
  return set_from_storage_at(
      t, src.storage(), src.sym_storage_offset(), src.sym_sizes(),
      src.sym_strides());
}

Tensor& set_empty(Tensor& t) {
  c10::SymInt size[1] = {0}, stride[1] = {1};
  c10::DeviceGuard guard(t.device());
  Storage s(Storage::use_byte_size_t(), 0, device_memory()->allocate(0),
            device_memory(), true);
  return set_from_storage_at(t, std::move(s), 0, size, stride);
}

// ---------------------------------------------------------------- autocast ----

enum class Cast { kLower, kFp32, kFp32Dtype, kWidest };

at::ScalarType widest(const Tensor& t, at::ScalarType now) {
  return at::autocast::is_eligible(t, kSdaa) && t.scalar_type() == at::kFloat
      ? at::kFloat
      : now;
}

template <Cast how>
void autocast_kernel(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  c10::impl::ExcludeDispatchKeyGuard once(DispatchKey::AutocastPrivateUse1);
  const auto& schema = op.schema();
  const auto n_args = schema.arguments().size();
  const auto first = stack->size() - n_args;
  const auto low = at::autocast::get_autocast_dtype(kSdaa);

  at::ScalarType to = how == Cast::kFp32 ? at::kFloat : low;
  if constexpr (how == Cast::kWidest) {
    for (size_t k = first; k < stack->size(); ++k) {
      if ((*stack)[k].isTensor()) {
        to = widest((*stack)[k].toTensor(), to);
      }
    }
  }
  if constexpr (how == Cast::kFp32Dtype) {
    IValue& head = (*stack)[first];
    if (head.isTensor() && at::autocast::is_eligible(head.toTensor(), kSdaa)) {
      bool has_dtype = false;
      for (size_t k = 0; k < n_args; ++k) {
        if (schema.arguments()[k].name() == "dtype") {
          has_dtype = true;
          if ((*stack)[first + k].isNone()) {
            (*stack)[first + k] = IValue(at::kFloat);
          }
        }
      }
      if (!has_dtype) {
        head = at::autocast::cached_cast(at::kFloat, head.toTensor(), kSdaa);
      }
    }
  } else {
    for (size_t k = first; k < stack->size(); ++k) {
      IValue& v = (*stack)[k];
      if (v.isTensor()) {
        v = at::autocast::cached_cast(to, v.toTensor(), kSdaa);
      } else if (v.isTensorList()) {
        v = at::autocast::cached_cast(to, v.toTensorVector(), kSdaa);
      }
    }
  }
  op.callBoxed(stack);
}

void autocast_refuse(const c10::OperatorHandle&, torch::jit::Stack*) {
  TORCH_CHECK(
      false, "binary_cross_entropy and BCELoss are unsafe to autocast; use "
      "binary_cross_entropy_with_logits or BCEWithLogitsLoss");
}

} // namespace

Tensor cpu_view(const Tensor& t) {
  if (!is_sdaa(t)) {
    return t;
  }
  Lender lender;
  lender.where = t.device();
  return lender.lend(t);
}

std::vector<Tensor> cpu_view(const std::vector<Tensor>& ts) {
  Lender lender;
  std::vector<Tensor> out;
  for (const auto& t : ts) {
    out.push_back(is_sdaa(t) ? lender.lend(t) : t);
  }
  return out;
}

// ------------------------------------------------------------ registration ----

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", TORCH_FN(empty_memory_format));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("as_strided", TORCH_FN(as_strided));
  m.impl("view", TORCH_FN(view));
  m.impl("_reshape_alias", TORCH_FN(reshape_alias));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("_local_scalar_dense", TORCH_FN(item));
  m.impl("set_.source_Storage", TORCH_FN(set_from_storage));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(set_from_storage_at));
  m.impl("set_.source_Tensor", TORCH_FN(set_from_tensor));
  m.impl("set_", TORCH_FN(set_empty));
  m.impl("record_stream", TORCH_FN(record_stream));
  m.impl("native_dropout", TORCH_FN(native_dropout));
#if SIM_TORCH < 207
  m.impl("mean.out", TORCH_FN(mean_out));
#endif
  m.impl("convolution_overrideable",
         torch::CppFunction::makeFromBoxedFunction<&conv_forward>());
  m.impl("convolution_backward_overrideable", TORCH_FN(conv_backward));
}

// Without this every op that has no autocast rule fails inside autocast.
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  using torch::CppFunction;
  for (const char* op :
       {"_convolution", "_convolution.deprecated", "conv1d", "conv2d", "conv3d",
        "conv_tbc", "conv_transpose1d", "conv_transpose2d.input",
        "conv_transpose3d.input", "convolution", "prelu", "addmm", "addmv",
        "addr", "matmul", "einsum", "mm", "mv", "linear", "addbmm", "baddbmm",
        "bmm", "chain_matmul", "linalg_multi_dot", "linalg_vecdot", "lstm_cell",
        "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
        "scaled_dot_product_attention"}) {
    m.impl(op, CppFunction::makeFromBoxedFunction<
                   &autocast_kernel<Cast::kLower>>());
  }
  for (const char* op :
       {"acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10",
        "log2", "log1p", "reciprocal", "rsqrt", "sinh", "tan",
        "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus",
        "layer_norm", "native_layer_norm", "group_norm", "rms_norm",
        "frobenius_norm.dim", "nuclear_norm", "nuclear_norm.dim",
        "cosine_similarity", "poisson_nll_loss", "cosine_embedding_loss",
        "nll_loss", "nll_loss2d", "hinge_embedding_loss", "kl_div", "l1_loss",
        "smooth_l1_loss", "huber_loss", "mse_loss", "margin_ranking_loss",
        "multilabel_margin_loss", "soft_margin_loss", "triplet_margin_loss",
        "multi_margin_loss", "binary_cross_entropy_with_logits", "dist",
        "pdist", "cdist", "renorm", "logsumexp", "upsample_nearest2d",
        "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa"}) {
    m.impl(op, CppFunction::makeFromBoxedFunction<
                   &autocast_kernel<Cast::kFp32>>());
  }
  for (const char* op :
       {"prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod",
        "cumsum", "linalg_vector_norm", "linalg_matrix_norm",
        "linalg_matrix_norm.str_ord", "sum", "sum.dim_IntList", "norm.Scalar",
        "norm.ScalarOpt_dim"}) {
    m.impl(op, CppFunction::makeFromBoxedFunction<
                   &autocast_kernel<Cast::kFp32Dtype>>());
  }
  for (const char* op :
       {"addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot",
        "grid_sampler", "index_put", "tensordot", "scatter_add"}) {
    m.impl(op, CppFunction::makeFromBoxedFunction<
                   &autocast_kernel<Cast::kWidest>>());
  }
  m.impl("binary_cross_entropy",
         CppFunction::makeFromBoxedFunction<&autocast_refuse>());
}

} // namespace sdaa_sim

// ------------------------------------------------------------------ python ----

void bind_tccl(pybind11::module& m);

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  namespace py = pybind11;
  using namespace sdaa_sim;
  c10::SetAllocator(kSdaa, device_memory());
  at::RegisterPrivateUse1HooksInterface(new SimHooks());
  // Newer torch brings this one itself. Without it ops that have no backward,
  // such as the collectives, fail on tensors that ask for gradients.
  const auto autograd = DispatchKey::AutogradPrivateUse1;
  if (!c10::Dispatcher::singleton().hasBackendFallbackForDispatchKey(autograd)) {
    static torch::Library lib(
        torch::Library::IMPL, "_", autograd, __FILE__, __LINE__);
    lib.fallback(torch::CppFunction::makeFallthrough());
  }

  m.def("device_count", [] { return static_cast<int>(device_count()); });
  m.def("current_device", [] { return static_cast<int>(current_device()); });
  m.def("exchange_device", [](int i) {
    return static_cast<int>(swap_device(static_cast<DeviceIndex>(i)));
  });
  m.def("default_generator", [](int i) {
    return default_generator(static_cast<DeviceIndex>(i));
  });
  m.def("memory", [](int i) {
    check_index(static_cast<DeviceIndex>(i));
    return std::make_pair(g_meters[i].now.load(), g_meters[i].peak.load());
  });
  m.def("reset_peak_memory", [](int i) {
    device_memory()->resetPeakStats(static_cast<DeviceIndex>(i));
  });
  m.def("total_memory", [] {
    return g_limit > 0 ? static_cast<size_t>(g_limit) : kTotal;
  });
  m.def("limit_memory", [](int64_t bytes, bool torch_error) {
    g_limit = bytes;
    g_torch_error = torch_error;
  }, py::arg("bytes"), py::arg("torch_error") = false);
  m.def("synchronize", [] { account("synchronize"); });
  m.def("count_ops", [](bool on) {
    std::lock_guard<std::mutex> hold(g_ops_mutex);
    g_count_ops = on;
    if (on) {
      g_ops_seen.clear();
    }
  });
  m.def("op_counts", [] {
    std::lock_guard<std::mutex> hold(g_ops_mutex);
    return g_ops_seen;
  });
  m.def("block_ops", [](const std::vector<std::string>& names) {
    std::lock_guard<std::mutex> hold(g_ops_mutex);
    g_ops_blocked = {names.begin(), names.end()};
    g_any_blocked = !names.empty();
  });
  bind_tccl(m);
}
