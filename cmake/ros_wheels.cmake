# Only for ROS 2 installed as Python wheels in a virtual environment; setup.py passes this file as CMAKE_PROJECT_INCLUDE,
# so that CMakeLists.txt stays what an ordinary ROS 2 installation needs. Runs once everything else is declared.

# The targets of the wheels export include directories of the machine that built them, and CMake refuses an imported
# target with a directory that is not there. Nobody can need such a directory: drop it.
function(anypcc_drop_missing_include_directories)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    foreach(property INTERFACE_INCLUDE_DIRECTORIES INTERFACE_SYSTEM_INCLUDE_DIRECTORIES)
      get_target_property(directories ${target} ${property})
      if(directories)
        set(existing "")
        foreach(directory IN LISTS directories)
          if(directory MATCHES "^\\$<" OR EXISTS "${directory}")
            list(APPEND existing "${directory}")
          endif()
        endforeach()
        set_property(TARGET ${target} PROPERTY ${property} "${existing}")
      endif()
    endforeach()
  endforeach()
endfunction()

# Our own targets export the include directory of numpy, and CMake refuses to export one inside the source tree, where
# .venv is. The pip installation exports nothing to anybody: keep it for building alone.
function(anypcc_keep_include_directories_for_building)
  get_property(targets DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(directories)
      list(TRANSFORM directories REPLACE "^(${CMAKE_SOURCE_DIR}/.*)$" "$<BUILD_INTERFACE:\\1>")
      set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${directories}")
    endif()
  endforeach()
endfunction()

if(CMAKE_CURRENT_SOURCE_DIR STREQUAL CMAKE_SOURCE_DIR)
  cmake_language(DEFER CALL anypcc_drop_missing_include_directories)
  cmake_language(DEFER CALL anypcc_keep_include_directories_for_building)
endif()
