// The argument of the CUDA kernels, filled for Python. No CUDA is needed to build or to load this:
// addresses are numbers here.
#include "cuda_module.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "constants.h"
#include "cuda_frame.h"
#include "loss_frame.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldpress::render {
namespace {

using Fields = std::unordered_map<std::string, int64_t>;
using Setter = std::function<void(CudaFrame&, int64_t)>;

template <typename Access>
Setter address(Access access) {
  return [access](CudaFrame& f, int64_t value) {
    auto& field = access(f);
    field = reinterpret_cast<std::decay_t<decltype(field)>>(static_cast<uintptr_t>(value));
  };
}

template <typename Access>
Setter number(Access access) {
  return [access](CudaFrame& f, int64_t value) {
    auto& field = access(f);
    field = static_cast<std::decay_t<decltype(field)>>(value);
  };
}

#define ADDRESS(path) address([](CudaFrame& f) -> auto& { return f.path; })
#define NUMBER(path) number([](CudaFrame& f) -> auto& { return f.path; })

// What Python may set, by name.
const std::unordered_map<std::string, Setter>& setters() {
  static const auto* all = new std::unordered_map<std::string, Setter>{
      {"count", NUMBER(scene.count)},
      {"means", ADDRESS(scene.means)},
      {"quats", ADDRESS(scene.quats)},
      {"scales", ADDRESS(scene.scales)},
      {"opacities", ADDRESS(scene.opacities)},
      {"colors", ADDRESS(scene.colors)},
      {"color_stride", NUMBER(scene.color_stride)},
      {"packed_means", ADDRESS(packed.means)},
      {"packed_quats", ADDRESS(packed.quats)},
      {"packed_scales", ADDRESS(packed.scales)},
      {"packed_opacities", ADDRESS(packed.opacities)},
      {"packed_sh0", ADDRESS(packed.sh0)},
      {"packed_shN", ADDRESS(packed.shN)},
      {"packed_sh_steps", ADDRESS(packed.sh_steps)},
      {"packed_indices", ADDRESS(packed.indices)},
      {"packed_blocks", ADDRESS(packed.blocks)},
      {"viewmat", ADDRESS(viewmat)},
      {"K", ADDRESS(K)},
      {"splat_room", NUMBER(splat_room)},
      {"pair_room", NUMBER(pair_room)},
      {"image", ADDRESS(target.image)},
      {"alpha", ADDRESS(target.alpha)},
      {"background", ADDRESS(target.background)},
      {"radii", ADDRESS(details.radii)},
      {"means2d", ADDRESS(details.means2d)},
      {"depths", ADDRESS(details.depths)},
      {"conics", ADDRESS(details.conics)},
      {"splat_opacities", ADDRESS(details.opacities)},
      {"tiles_per_gauss", ADDRESS(details.tiles_per_gauss)},
      {"hits", ADDRESS(sums.hits)},
      {"opacity_hits", ADDRESS(sums.opacity_hits)},
      {"weight", ADDRESS(sums.weight)},
      {"weight_sq", ADDRESS(sums.weight_sq)},
      {"max_weight", ADDRESS(sums.max_weight)},
      {"drawn_image", ADDRESS(upstream.image)},
      {"drawn_alpha", ADDRESS(upstream.alpha)},
      {"image_grad", ADDRESS(upstream.image_grad)},
      {"alpha_grad", ADDRESS(upstream.alpha_grad)},
      {"splat_grads", ADDRESS(splat_grads)},
      {"means_grad", ADDRESS(grads.means)},
      {"quats_grad", ADDRESS(grads.quats)},
      {"scales_grad", ADDRESS(grads.scales)},
      {"opacities_grad", ADDRESS(grads.opacities)},
      {"colors_grad", ADDRESS(grads.colors)},
      {"background_grad", ADDRESS(background_grad)},
      {"pose", ADDRESS(pose)},
      {"viewmat_grad", ADDRESS(viewmat_grad)},
  };
  return *all;
}

// Hands out parts of a buffer; from address 0 on it only measures.
class Carver {
 public:
  explicit Carver(uintptr_t base) : base_(base) {}
  template <typename T>
  void take(T*& part, int64_t count) {
    at_ = (at_ + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    part = reinterpret_cast<T*>(base_ + at_);
    at_ += static_cast<size_t>(count) * sizeof(T);
  }
  int64_t bytes() const { return static_cast<int64_t>(at_); }

 private:
  static constexpr size_t ALIGNMENT = 256;
  uintptr_t base_;
  size_t at_ = 0;
};

// Cleared before each frame; kept for the backward pass; needed by the forward pass alone.
struct Carvers {
  Carver cleared, kept, scratch;
};

int64_t parts_of(int64_t room, int64_t part) { return (room + part - 1) / part; }

// Passes over the digits that keys below `end` have.
int passes_of(int64_t end) {
  int passes = 1;
  while (passes < SORT_PASSES && end > int64_t{1} << (RADIX_BITS * passes)) ++passes;
  return passes;
}

void carve_sort(Sort& sort, int64_t room, bool keep_values, Carvers& from) {
  sort.parts = parts_of(room, SORT_PART);
  from.cleared.take(sort.histogram, sort.passes * RADIX);
  from.cleared.take(sort.states, sort.passes * sort.parts * RADIX);
  const int last = sort.passes & 1;
  for (int k = 0; k < 2; ++k) {
    from.scratch.take(sort.keys[k], room);
    (k == last && keep_values ? from.kept : from.scratch).take(sort.values[k], room);
  }
}

void carve(CudaFrame& f, Carvers& from) {
  const int64_t tiles = parts_of(f.set.width, TILE) * parts_of(f.set.height, TILE);
  f.by_depth.passes = SORT_PASSES;
  f.by_tile.passes = passes_of(tiles);
  from.cleared.take(f.progress, 1);
  from.cleared.take(f.project_chain, parts_of(f.scene.count, BLOCK));
  from.cleared.take(f.emit_chain, parts_of(f.splat_room, BLOCK));
  from.cleared.take(f.ranges, tiles);
  from.kept.take(f.camera, 1);
  from.kept.take(f.splats, f.splat_room);
  carve_sort(f.by_depth, f.splat_room, false, from);
  carve_sort(f.by_tile, f.pair_room, true, from);
  if (f.progress != nullptr) {  // Else only the sizes are asked for.
    f.by_depth.count = &f.progress->drawn;
    f.by_depth.tickets = f.progress->tickets + TICKET_SORT;
    f.by_tile.count = &f.progress->listed;
    f.by_tile.tickets = f.progress->tickets + TICKET_SORT + SORT_PASSES;
  }
  f.order = f.by_depth.values[f.by_depth.passes & 1];
  f.tiles = f.by_tile.keys[f.by_tile.passes & 1];
  f.lists = f.by_tile.values[f.by_tile.passes & 1];
}

CudaFrame fill(const Settings& set, const Fields& fields) {
  CudaFrame f;
  f.set = set;
  f.scene.sh_degree = set.sh_degree;
  for (const auto& [name, value] : fields) {
    const auto found = setters().find(name);
    if (found == setters().end()) throw std::invalid_argument(name + ": no field of a frame");
    found->second(f, value);
  }
  return f;
}

std::tuple<int64_t, int64_t, int64_t> cuda_room(const Settings& set, int64_t count,
                                                int64_t splats, int64_t pairs) {
  CudaFrame f = fill(set, {{"count", count}, {"splat_room", splats}, {"pair_room", pairs}});
  Carvers from = {Carver(0), Carver(0), Carver(0)};
  carve(f, from);
  return {from.cleared.bytes(), from.kept.bytes(), from.scratch.bytes()};
}

// Where the tiles' lists of splats begin, in bytes of the kept buffer.
int64_t cuda_lists(const Settings& set, int64_t count, int64_t splats, int64_t pairs) {
  CudaFrame f = fill(set, {{"count", count}, {"splat_room", splats}, {"pair_room", pairs}});
  Carvers from = {Carver(0), Carver(0), Carver(0)};
  carve(f, from);
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(f.lists));
}

nb::bytes cuda_frame(const Settings& set, const Fields& fields, uintptr_t cleared, uintptr_t kept,
                     uintptr_t scratch) {
  CudaFrame f = fill(set, fields);
  Carvers from = {Carver(cleared), Carver(kept), Carver(scratch)};
  carve(f, from);
  return nb::bytes(reinterpret_cast<const char*>(&f), sizeof f);
}

// The views' numbers come in the order of LossViews: count, height, width, then addresses.
nb::bytes cuda_loss(const std::vector<int64_t>& views, const std::vector<int64_t>& work,
                    float ssim_weight) {
  if (views.size() != 8 || work.size() != 7) throw std::invalid_argument("cuda_loss: sizes");
  const auto at = [](int64_t address) {
    return reinterpret_cast<float*>(static_cast<uintptr_t>(address));
  };
  LossFrame f;
  f.views.count = views[0];
  f.views.height = static_cast<int>(views[1]);
  f.views.width = static_cast<int>(views[2]);
  f.views.image = at(views[3]);
  f.views.target = at(views[4]);
  f.views.mean = at(views[5]);
  f.views.variance = at(views[6]);
  f.views.mask = at(views[7]);
  f.mean = at(work[0]);
  f.variance = at(work[1]);
  for (size_t k = 0; k < 3; ++k) f.maps[k] = at(work[2 + k]);
  f.sums = reinterpret_cast<double*>(static_cast<uintptr_t>(work[5]));
  f.gradient = at(work[6]);
  f.ssim_weight = ssim_weight;
  return nb::bytes(reinterpret_cast<const char*>(&f), sizeof f);
}

nb::dict layout() {
  nb::dict all;
  all["block"] = BLOCK;
  all["sort_part"] = SORT_PART;
  all["sort_passes"] = SORT_PASSES;
  all["pack_block"] = PACK_BLOCK;
  all["grad_color"] = static_cast<int>(GRAD_COLOR);
  all["pose_bytes"] = sizeof(PoseGrad);
  all["fault_singular"] = static_cast<int>(FAULT_SINGULAR);
  all["fault_not_finite"] = static_cast<int>(FAULT_NOT_FINITE);
  all["fault_focal"] = static_cast<int>(FAULT_FOCAL);
  all["fault_splats"] = static_cast<int>(FAULT_SPLATS);
  all["fault_pairs"] = static_cast<int>(FAULT_PAIRS);
  return all;
}

}  // namespace

void bind_cuda(nb::module_& m) {
  m.attr("CUDA") = layout();
  m.def("cuda_passes", &passes_of, "end"_a);
  m.def("cuda_room", &cuda_room, "settings"_a, "count"_a, "splats"_a, "pairs"_a);
  m.def("cuda_lists", &cuda_lists, "settings"_a, "count"_a, "splats"_a, "pairs"_a);
  m.def("cuda_loss", &cuda_loss, "views"_a, "work"_a, "ssim_weight"_a);
  m.def("cuda_frame", &cuda_frame, "settings"_a, "fields"_a, "cleared"_a, "kept"_a, "scratch"_a);
}

}  // namespace fieldpress::render
