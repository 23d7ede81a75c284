// A Node-API module that stands before TensorFlow's and loads it with RTLD_DEEPBIND: TensorFlow's libraries carry
// an LLVM of their own, and without it their calls go to another LLVM that is already in the process, such as that
// of Mesa's graphics drivers, and crash.
#include <dlfcn.h>
#include <node_api.h>

#include <string>

namespace {

// The file beside this one that holds the real module.
std::string binding_path() {
  Dl_info here;
  dladdr(reinterpret_cast<void *>(&binding_path), &here);
  std::string path = here.dli_fname;
  return path.substr(0, path.rfind('/') + 1) + "libtfjs_binding.so";
}

napi_value fail(napi_env env) {
  napi_throw_error(env, nullptr, dlerror());
  return nullptr;
}

}  // namespace

NAPI_MODULE_INIT() {
  void *binding = dlopen(binding_path().c_str(), RTLD_LAZY | RTLD_LOCAL | RTLD_DEEPBIND);
  if (binding == nullptr) return fail(env);
  void *init = dlsym(binding, "napi_register_module_v1");
  if (init == nullptr) return fail(env);
  return reinterpret_cast<napi_value (*)(napi_env, napi_value)>(init)(env, exports);
}
