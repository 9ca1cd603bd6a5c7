// SPDX-License-Identifier: BSD-3-Clause
// A program with libtorch and without Python that calls a file for nnpot as GROMACS does.
//
// nnpot_loader FILE < numbers: N, then x y z of each atom (nm), N atomic numbers, nine numbers of the
// box, and the number of pairs with their atoms and shifts, or -1 for a file that searches by itself.
// Prints the energy, then the forces.

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include <torch/script.h>
#include <torch/torch.h>

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

namespace {

bool openLibraries(const std::string& file)
{
    caffe2::serialize::PyTorchStreamReader reader(file);
    if (!reader.hasRecord("extra/extension_libs"))
        return true;
    auto [data, size] = reader.getRecord("extra/extension_libs");
    std::stringstream names(std::string(static_cast<const char*>(data.get()), size));
    for (std::string name; std::getline(names, name, ':');) {
        if (!dlopen(name.c_str(), RTLD_LAZY)) {
            std::fprintf(stderr, "%s\n", dlerror());
            return false;
        }
    }
    return true;
}

template <typename T> std::vector<T> read(size_t count)
{
    std::vector<T> values(count);
    for (auto& value : values)
        std::cin >> value;
    return values;
}

} // namespace

int main(int argc, char** argv)
{
    if (argc != 2 || !openLibraries(argv[1]))
        return 2;
    torch::jit::setGraphExecutorOptimize(false);
    torch::jit::Module model = torch::jit::load(argv[1], torch::Device(torch::kCPU));
    model.eval();

    int64_t n = 0, m = 0;
    std::cin >> n;
    auto x = read<float>(3 * n);
    auto numbers = read<int32_t>(n);
    auto box = read<float>(9);
    std::cin >> m;
    std::vector<int32_t> pairs;
    std::vector<float> shifts;
    for (int64_t k = 0; k < m; ++k) {
        for (auto atom : read<int32_t>(2))
            pairs.push_back(atom);
        for (auto part : read<float>(3))
            shifts.push_back(part);
    }
    // from_blob: the memory stays this program's, as it stays GROMACS'
    std::vector<torch::jit::IValue> inputs;
    auto real = torch::TensorOptions().dtype(torch::kFloat32);
    auto whole = torch::TensorOptions().dtype(torch::kInt32);
    inputs.push_back(torch::from_blob(x.data(), { n, 3 }, real).requires_grad_(true));
    inputs.push_back(torch::from_blob(numbers.data(), { n }, whole));
    if (m >= 0) {
        inputs.push_back(torch::from_blob(pairs.data(), { m, 2 }, whole));
        inputs.push_back(torch::from_blob(shifts.data(), { m, 3 }, real));
    }
    inputs.push_back(torch::from_blob(box.data(), { 3, 3 }, real));
    inputs.push_back(torch::tensor({ true, true, true }, torch::TensorOptions().dtype(torch::kBool)));
    try {
        for (int step = 0; step < 4; ++step) {
            auto outputs = model.forward(inputs).toTuple()->elements();
            double energy = outputs[0].toTensor().item<double>();
            auto forces = outputs[1].toTensor().to(torch::kCPU).to(torch::kFloat64).contiguous();
            std::printf("%.17g\n", energy);
            for (int64_t k = 0; k < 3 * n; ++k)
                std::printf("%.17g\n", forces.data_ptr<double>()[k]);
        }
    } catch (const std::runtime_error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
