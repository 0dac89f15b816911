# Slow tests take a VM, a build or seconds of their own. `bin/test --all` sets SLOW_TESTS, and `mix test --include slow`
# runs them too.
ExUnit.start(capture_log: true, exclude: if(System.get_env("SLOW_TESTS"), do: [], else: [:slow]))
