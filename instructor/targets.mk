# What teachers can make; the main Makefile reads this file where it is.
TEST_ALSO += instructor/solutions
.PHONY: exercises verify handout instructor grade sandbox public sources-committed nbgrader other-graders

exercises: $(INSTALLED)  ## Derive notebooks and self-checks from the exercises' sources, and run them
	@$(BIN)/python -m instructor.build write
	@$(quiet_threads) $(BIN)/python tools/notebooks.py run book/exercises/*.ipynb instructor/solutions/*.ipynb

verify: $(INSTALLED)  ## Prove the exercises' tests: right answers pass, wrong ones fail (SEEDS=20)
	@$(quiet_threads) env -u TQDM_DISABLE $(BIN)/python -m instructor.verify --seeds $(or $(SEEDS),20) $(ARGS)

handout: $(INSTALLED)  ## Write what students get (CHAPTER=3 or EXERCISES=3.1,3.4; COHORT=name) to _build/handout
	@$(BIN)/python -m instructor.build handout $(if $(CHAPTER),--chapter $(CHAPTER)) \
	  $(if $(EXERCISES),--exercises $(EXERCISES)) $(if $(COHORT),--cohort "$(COHORT)") $(if $(OUT),--out "$(OUT)")

instructor: $(INSTALLED)  ## Write what stays with teachers (COHORT=name) to _build/instructor: solutions, nbgrader course
	@$(BIN)/python -m instructor.build teachers $(if $(COHORT),--cohort "$(COHORT)") $(if $(OUT),--out "$(OUT)")

grade: $(INSTALLED) sandbox  ## Grade a folder of notebooks: SUBMISSIONS=folder [CHAPTER=3] [COHORT=name] [OUT=folder]
	@test -n "$(SUBMISSIONS)" || { echo "usage: make grade SUBMISSIONS=folder [CHAPTER=3 | EXERCISES=3.1,3.4] [COHORT=name] [OUT=folder] [SEED=n]" >&2; exit 2; }
	@env -u TQDM_DISABLE $(BIN)/python -m instructor.grader "$(SUBMISSIONS)" $(if $(CHAPTER),--chapter $(CHAPTER)) \
	  $(if $(EXERCISES),--exercises $(EXERCISES)) $(if $(COHORT),--cohort "$(COHORT)") $(if $(OUT),--out "$(OUT)") $(if $(SEED),--seed $(SEED)) $(ARGS)

# Answers are run apart from the tests; see instructor/grader/sandbox.py.
sandbox: $(INSTALLED)
	@command -v bwrap >/dev/null || [ "$$(uname)" != Linux ] || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "==> no bubblewrap yet: apt-get install bubblewrap"; apt-get update -qq && apt-get install -y -qq bubblewrap; \
	  else echo "make: grading needs bubblewrap, and it is not here: sudo apt-get install -y bubblewrap" >&2; exit 1; fi; }

test: sandbox

public: $(INSTALLED) sources-committed  ## Copy the book without instructor/ into OUT=folder, to publish with a history of its own
	@test -n "$(OUT)" || { echo "usage: make public OUT=folder" >&2; exit 2; }
	@mkdir -p "$(OUT)" && { [ -f "$(OUT)/_toc.yml" ] && [ ! -e "$(OUT)/instructor" ] || [ -z "$$(ls -A "$(OUT)")" ]; } || \
	  { echo "make: $(OUT) is neither empty nor an earlier copy" >&2; exit 1; }
	@find "$(OUT)" -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf {} +
	@git archive HEAD -- . ':!instructor' ':!tests/instructor' | tar -x -C "$(OUT)"
	@$(BIN)/python -m instructor.build public --out "$(OUT)"
	@! grep -rlE "BEGIN (SOLUTION|HIDDEN)" "$(OUT)/book" "$(OUT)/lib" || { echo "make: the files above hold solutions" >&2; exit 1; }
	@echo "==> $(OUT) holds the book without solutions; make it a repository of its own: its past holds none either"

sources-committed:
	@git diff --quiet HEAD -- . || { echo "make: commit first, as only what is committed is copied (git commit -am ...)" >&2; exit 1; }

# nbgrader lives in an environment of its own, on top of .venv, whose packages it sees.
NBGRADER := .venv/nbgrader
$(NBGRADER)/.installed: instructor/requirements.txt | $(INSTALLED)
	@test -x $(NBGRADER)/bin/python || $(PYTHON) -m venv $(NBGRADER)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"), "$(CURDIR)/lib", sep="\n")' > $$($(NBGRADER)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_book.pth
	@$(NBGRADER)/bin/python -m pip install -q -r $<
	@touch $@

nbgrader: instructor $(NBGRADER)/.installed  ## Let nbgrader itself generate, validate and autograde the course (a few minutes)
	@$(NBGRADER)/bin/python -m instructor.try_nbgrader _build/instructor/nbgrader

other-graders: sandbox $(NBGRADER)/.installed  ## Hand the battery of hostile notebooks to nbgrader and otter-grader (an hour)
	@$(quiet_threads) env -u TQDM_DISABLE $(NBGRADER)/bin/python -m instructor.other_graders _build/other_graders.json
