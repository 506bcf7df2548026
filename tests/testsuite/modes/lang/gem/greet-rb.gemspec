Gem::Specification.new { |s| s.name="greet-rb"; s.version="1.0"; s.summary="x"; s.authors=["x"]; s.files=["bin/greet-rb"]; s.executables=["greet-rb"] }
