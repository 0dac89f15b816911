# A test's log is captured with it, and shown where it fails. Between tests only errors are shown: the rest are the last
# words of clients whose tests are over, which those tests have no part in (owner_test.exs asserts what they say).
if Version.match?(System.version(), ">= 1.15.0"),
  do: :logger.set_handler_config(:default, :level, :error),
  else: apply(Logger, :configure_backend, [:console, [level: :error]])

ExUnit.start(capture_log: true)
