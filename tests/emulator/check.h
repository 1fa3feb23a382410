// The smallest test harness: named tests, CHECK, and EXPECT_ERROR for the emulator's own errors.
#pragma once

#include <stdio.h>

#include <string>
#include <vector>

#include "cuda_emulator.h"

struct Test {
  const char* name;
  void (*body)();
};
inline std::vector<Test>& tests() {
  static std::vector<Test> list;
  return list;
}
inline int failed_checks = 0;

#define TEST(name)                                                                        \
  static void name();                                                                     \
  [[maybe_unused]] static const bool name##_registered = (tests().push_back({#name, name}), true); \
  static void name()

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      ++failed_checks;                                                    \
      printf("  %s:%d: expected %s\n", __FILE__, __LINE__, #condition);   \
    }                                                                     \
  } while (0)

// The statement must throw emu::Error, and its message must hold every one of the given words.
#define EXPECT_ERROR(statement, ...)                                                                   \
  do {                                                                                                 \
    std::string message;                                                                               \
    try {                                                                                              \
      statement;                                                                                       \
    } catch (const emu::Error& error) {                                                                \
      message = error.what();                                                                          \
    }                                                                                                  \
    for (const char* word : {__VA_ARGS__})                                                             \
      if (message.find(word) == std::string::npos) {                                                   \
        ++failed_checks;                                                                               \
        printf("  %s:%d: expected an error with '%s', got '%s'\n", __FILE__, __LINE__, word, message.c_str()); \
      }                                                                                                \
  } while (0)
